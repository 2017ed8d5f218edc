"""Training scorers on ranked chains, and their held-out figures."""
