"""Comparisons with plain implementations of the same work; each module prints a table when run."""
