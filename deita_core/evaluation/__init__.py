"""Evaluation of a language model: answers to questions, a judge's verdicts on them, figures, and benchmarks."""
