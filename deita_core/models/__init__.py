"""Encoders and causal language models: finding, loading, computing."""
