"""Finds, loads and runs encoders and causal language models."""
