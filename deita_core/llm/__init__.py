"""A client for OpenAI-compatible endpoints that pays for nothing twice."""
