"""Prefect tasks: shards, cache keys, retries and artifacts around one call into deita_core each."""
