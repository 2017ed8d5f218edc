"""Runs shards: runners, progress, retries and interrupts."""
