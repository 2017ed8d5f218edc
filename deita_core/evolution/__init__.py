"""Evolution: from seed instructions and answers to chains of variants that a model has ranked (paper, section 2.2)."""
