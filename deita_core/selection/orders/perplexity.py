"""The order by perplexity of the answers under a language model, highest first (the paper's baseline)."""

import polars as pl


def perplexity_order(losses: pl.DataFrame) -> pl.DataFrame:
    """The perplexity of each row's answers: id, score, perplexity (the same number), at least 1.

    losses: id and answer_nll, the mean negative log-likelihood in nats of the tokens of all answers, each given what
    comes before it; null where it is unknown, and then the score is null.
    """
    perplexity = pl.col("answer_nll").exp()
    return losses.select("id", score=perplexity, perplexity=perplexity)
