"""Prefect tasks: each wraps one call into deita_core with shards, cache keys, retries and artifacts."""
