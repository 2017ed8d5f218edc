"""Reads files of any supported layout into samples and rejects."""
