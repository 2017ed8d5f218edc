"""The order by instruction-following difficulty (IFD, 2308.12032), highest first."""

import polars as pl


def ifd() -> pl.Expr:
    """The perplexity of answers given the instruction over their perplexity alone, from answer_nll and alone_nll."""
    return (pl.col("answer_nll") - pl.col("alone_nll")).exp()


def ifd_order(losses: pl.DataFrame) -> pl.DataFrame:
    """The IFD of each row: id, score, ifd, reason.

    losses: id, answer_nll and alone_nll, the mean negative log-likelihoods in nats of the tokens of all answers, given
    what comes before each, and given nothing; null where unknown. An IFD of 1 or more says that the instruction does
    not help: the score is null and the reason names the IFD. Without losses the score, the IFD and the reason are null.
    """
    helps = pl.col("ifd") < 1
    return losses.select("id", ifd=ifd()).select(
        "id",
        score=pl.when(helps).then("ifd"),
        ifd="ifd",
        reason=pl.when(~helps).then(
            pl.format("its answer is no likelier with the instruction: IFD {}", pl.col("ifd").round(2))
        ),
    )
