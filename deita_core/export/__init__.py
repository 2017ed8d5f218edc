"""A finished selection as files."""
