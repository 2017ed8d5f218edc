"""A proof: subsets of equal training tokens, a model fine-tuned on each, and the figures."""
