"""A client for OpenAI-compatible endpoints that caches every answer."""
