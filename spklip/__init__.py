"""SPKLIP: spike video aligned with language, and its trainer."""
