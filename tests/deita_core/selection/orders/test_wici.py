"""In-context influence against loops written from the formula."""

import math

import numpy as np
import polars as pl
import pytest

from deita_core.selection.orders.wici import hard_rows, influence_order, nearest_hard


def pool(n, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"{i:05d}" for i in rng.permutation(n)]
    answer, alone = rng.uniform(0.5, 4, n), rng.uniform(1, 5, n)
    losses = pl.DataFrame({"id": ids, "answer_nll": answer, "alone_nll": alone})
    return ids, rng.normal(size=(n, 8)).astype(np.float32), losses


def shown_nll(id_, probe):
    """A made-up loss of a probe's answer after a demonstration."""
    return 0.5 + int(f"{id_}{probe}", 10) % 997 / 300


def reference(ids, vectors, losses):
    """Influence of rows: the sum over probes of cosine x (IFD alone - IFD with the row before), over their cosines."""
    answer, alone = (dict(losses.select("id", name).iter_rows()) for name in ("answer_nll", "alone_nll"))
    ifd = {id_: math.exp(answer[id_]) / math.exp(alone[id_]) for id_ in ids}
    known = sorted((id_ for id_ in ids if ifd[id_] < 1), key=lambda id_: -ifd[id_])
    harder = known[: math.ceil(len(known) / 2)]
    unit = {id_: vector / np.linalg.norm(vector) for id_, vector in zip(ids, vectors, strict=True)}
    influence = {}
    for id_ in ids:
        cosines = {probe: float(unit[id_] @ unit[probe]) for probe in harder if probe != id_}
        probes = sorted(cosines, key=lambda probe: -cosines[probe])[:8]
        probes = [probe for probe in probes if cosines[probe] > 0]
        gains = [cosines[p] * (ifd[p] - math.exp(shown_nll(id_, p)) / math.exp(alone[p])) for p in probes]
        if probes:
            influence[id_] = sum(gains) / sum(cosines[p] for p in probes)
    return influence


def with_losses(pairs):
    return pairs.with_columns(
        shown_nll=pl.Series([shown_nll(id_, probe) for id_, probe in pairs.select("id", "probe").iter_rows()])
    )


def test_the_influence_of_2000_rows_is_that_of_the_formula():
    ids, vectors, losses = pool(2_000)
    pairs = nearest_hard(ids, vectors, hard_rows(losses))
    found = dict(influence_order(with_losses(pairs), losses).select("id", "score").iter_rows())
    expected = reference(ids, vectors, losses)
    assert found.keys() == expected.keys()
    assert [found[id_] for id_ in ids] == pytest.approx([expected[id_] for id_ in ids], abs=1e-5)


def test_no_row_is_a_probe_of_its_own_and_of_equally_near_ones_the_smaller_ids_are_taken():
    ids = ["d", "c", "b", "a"]
    pairs = nearest_hard(ids, np.ones((4, 3), np.float32), pl.Series(ids), count=2)
    assert pairs.select("id", "probe").rows() == [
        ("d", "a"), ("d", "b"), ("c", "a"), ("c", "b"), ("b", "a"), ("b", "c"), ("a", "b"), ("a", "c"),
    ]  # fmt: skip


def test_a_row_without_vector_or_without_a_near_hard_row_has_no_influence():
    vectors = np.array([[1, 0], [-1, 0], [0, 0], [1, 1]], np.float32)
    ids = ["a", "b", "c", "d"]
    pairs = nearest_hard(ids, vectors, pl.Series(["a", "c"]))
    assert pairs.select("id", "probe").rows() == [("d", "a")]
    assert nearest_hard([], vectors[:0], pl.Series([], dtype=pl.String)).is_empty()
    losses = pl.DataFrame({"id": ids, "answer_nll": [1.0] * 4, "alone_nll": [2.0] * 4})
    unread = pairs.with_columns(shown_nll=pl.lit(None, pl.Float64))
    assert influence_order(unread, losses).is_empty()
    assert influence_order(pairs.with_columns(shown_nll=0.5), losses)["id"].to_list() == ["d"]


def test_the_hard_half_leaves_out_rows_whose_instruction_does_not_help():
    losses = pl.DataFrame(
        {"id": list("abcdef"), "answer_nll": [1.0, 2.0, 3.0, 1.0, 0.5, None], "alone_nll": [2.0, 2.1, 2.0, 2.0, 2, 2]}
    )
    assert hard_rows(losses).to_list() == ["b", "a"]
