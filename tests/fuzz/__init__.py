"""Fuzzing of every reader of outside data; see :mod:`fuzz.targets` and docs/explanation.

`pytest` runs a few hundred cases and every kept one; `python -m tests.fuzz --cases 10000` runs
many, and prints the table of what came of them.
"""
