"""Slow and obvious code that the fast code is held against."""
