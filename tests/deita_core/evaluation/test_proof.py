import numpy as np
import polars as pl
import pytest

from deita_core.evaluation.proof import compare_arms, verdict

PAIRS = pl.DataFrame(schema={"instruction": pl.String, "good": pl.String, "weaker": pl.String})


def losses_of(arms, tokens=10, held_out=True):
    """Losses per token by arm, seed and row, as a table."""
    rows = [
        (arm, seed, f"r{row}", held_out, loss * tokens, tokens)
        for arm, seeds in arms.items()
        for seed, of_rows in enumerate(seeds)
        for row, loss in enumerate(of_rows)
    ]
    return pl.DataFrame(rows, schema=["arm", "seed", "id", "held_out", "loss", "tokens"], orient="row")


def around(mean, rows=60, seed=0):
    return np.random.default_rng(seed).normal(mean, 0.01, rows)


def test_means_are_over_rows_and_over_tokens_and_errors_over_seeds():
    losses = pl.DataFrame(
        {
            "arm": ["deita"] * 4,
            "seed": [0, 0, 1, 1],
            "id": ["a", "b"] * 2,
            "held_out": True,
            "loss": [10.0, 90.0, 20.0, 60.0],
            "tokens": [10, 30] * 2,
        }
    )
    [figures] = compare_arms(losses, PAIRS, "deita")
    # Seed 0: 1 and 3 nats a token, seed 1: 2 and 2.
    assert figures.per_row.mean == pytest.approx(2) and figures.per_row.error == pytest.approx(0)
    assert figures.per_token.mean == pytest.approx((100 / 40 + 80 / 40) / 2)
    assert figures.per_token.error == pytest.approx(0.25)
    assert figures.difference is None and figures.likelier is None


def test_a_worse_arm_has_a_positive_difference_and_the_verdict_names_it():
    found = compare_arms(losses_of({"deita": [around(2.0)] * 2, "random": [around(2.1)] * 2}), PAIRS, "deita")
    assert found[1].difference.mean == pytest.approx(0.1) and found[1].difference.shown == 1
    assert verdict(found) == (
        "On the held-out answers the selection of deita is better than random (+0.1000, +0.1000 to +0.1000)."
    )


def test_a_better_arm_and_an_equal_one_are_told_apart():
    arms = {"deita": [around(2.0)], "longest": [around(1.9)], "random": [around(2.0, seed=1)]}
    found = compare_arms(losses_of(arms), PAIRS, "deita")
    assert [one.difference.shown for one in found[1:]] == [-1, 0]
    assert "is worse than longest" in verdict(found) and "differs from random" in verdict(found)


def test_an_interval_clear_of_zero_is_not_enough_if_the_seeds_disagree():
    arms = {"deita": [around(2.0), around(2.0)], "random": [around(2.5), around(1.9)]}
    [_, random] = compare_arms(losses_of(arms), PAIRS, "deita")
    assert random.difference.low > 0 and (random.difference.better, random.difference.worse) == (1, 1)
    assert random.difference.shown == 0


def test_the_base_model_has_one_run_for_all_seeds_and_no_part_in_the_verdict():
    arms = {"base": [[3.0, 3.0]], "deita": [[2.0, 2.0], [2.0, 2.2]], "random": [[2.1, 2.3], [2.1, 2.5]]}
    base, _, random = compare_arms(losses_of(arms), PAIRS, "deita")
    assert base.difference.mean == pytest.approx(0.95) and base.per_row.error is None
    assert random.difference.mean == pytest.approx(0.2)
    assert "base" not in verdict([base, random])


def test_weaker_answers_are_averaged_within_an_instruction_and_have_no_part_in_the_loss():
    good = losses_of({"deita": [[1.0, 2.0]]})
    weaker = losses_of({"deita": [[1.5, 0.5, 0.5, 3.0]]}, held_out=False).with_columns(id="w" + pl.col("id"))
    # Of r0 one of three weaker answers is less likely, of r1 the only one; r9 was not measured.
    of = [("i0", "r0", "wr0"), ("i0", "r0", "wr1"), ("i0", "r0", "wr2"), ("i1", "r1", "wr3"), ("i1", "r1", "r9")]
    pairs = pl.DataFrame(of, schema=PAIRS.schema, orient="row")
    [figures] = compare_arms(pl.concat([good, weaker]), pairs, "deita")
    assert figures.likelier.mean == pytest.approx((1 / 3 + 1) / 2)
    assert figures.per_row.mean == pytest.approx(1.5)
