"""Trains scorers on ranked chains and computes their held-out figures."""
