"""Evolution: turns seed instructions and answers into chains of variants ranked by a model (paper, section 2.2)."""
