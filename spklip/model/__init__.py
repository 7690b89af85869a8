"""The SPKLIP model."""
