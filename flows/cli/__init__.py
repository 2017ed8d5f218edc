"""The `deita` command."""
