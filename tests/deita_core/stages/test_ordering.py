"""Selections from a store by orders that need more than scores, and by tags."""

import json
import random

import numpy as np
import polars as pl
import pytest

from deita_core.alignment.rank_model import RankModel, find_rank_model
from deita_core.config.settings import SelectionSettings, fitting
from deita_core.errors import InputError, StoreError
from deita_core.models.encoder_spec import find_encoder
from deita_core.reading.examples import read_examples
from deita_core.scorers import ScorerFiles
from deita_core.selection.orders.ifd import ifd_order
from deita_core.selection.orders.wici import influence_order
from deita_core.stages.encoding import load_encoder
from deita_core.stages.influence import compute_shown, find_probes, plan_shown, shown_losses
from deita_core.stages.job import Job
from deita_core.stages.losses import compute_losses, mean_losses, plan_losses
from deita_core.stages.ranking import order_columns, ordered_ids
from deita_core.stages.selecting import decisions_of, select
from deita_core.stages.targets import encode_examples
from deita_core.tables import scores_table
from tests.support.stored_pool import StoredPool
from tests.support.tiny_llama import TOPICS

COMPLEXITY = ScorerFiles(name="c", axis="complexity", path=".", fingerprint="1" * 32)
QUALITY = ScorerFiles(name="q", axis="quality", path=".", fingerprint="2" * 32)
DRAW = random.Random(0)
ROWS = [
    [("user", f"What of {DRAW.choice(TOPICS)} {i}?"), ("assistant", f"{DRAW.choice(TOPICS)} " * DRAW.randint(1, 9))]
    for i in range(30)
]
# The template of a model that has none refuses it, so that its losses are unknown.
UNREADABLE = [("user", "What time is it?"), ("tool", "12:00"), ("assistant", "Noon.")]
TAGS = [[f"t{DRAW.randint(0, 9)}" for _ in range(DRAW.randint(0, 3))] for _ in range(31)]


class Ranked(StoredPool):
    """A pool with vectors and made-up scores, of which jobs are made."""

    def __init__(self, folder, encoder, model):
        super().__init__(folder, [*ROWS, UNREADABLE], tags=TAGS)
        self.encoder, self.model = encoder, model
        self.encode(encoder)
        for scorer, value in ((COMPLEXITY, 2.0), (QUALITY, 3.0)):
            table = scores_table(scorer.slug)
            rows = [(id_, 0, value, "ok") for id_ in self.ids]
            self.store.write(table, pl.DataFrame(rows, schema=table.empty().schema, orient="row"))

    def job(self, examples=None, drop=(), **settings):
        return Job(
            run_id="r",
            file_ids=tuple(self.file_ids),
            encoder=self.encoder,
            complexity=COMPLEXITY,
            quality=QUALITY,
            rank_model=self.model.files,
            examples=examples,
            drop=drop,
            settings=fitting(SelectionSettings(**settings)),
        )

    def compute(self, job, *given):
        for each in given:
            for shard in plan_losses(self.store, self.model.files, each, ordered_ids(self.store, job)):
                compute_losses(self.store, self.model, each, shard)

    def decisions(self, job):
        self.chosen = select(self.store, job)
        found = decisions_of(self.store, job)
        own = order_columns(self.store, job, found)
        return found.join(own, on="id", how="left", maintain_order="left")

    def unreadable(self):
        return next(id_ for id_, found in self.rows.items() if found.messages[0].content == UNREADABLE[0][1])


@pytest.fixture(scope="module")
def pool(tmp_path_factory, tiny_model, tiny_llama):
    model = RankModel(find_rank_model(str(tiny_llama), 128, "float32"), device="cpu")
    return Ranked(tmp_path_factory.mktemp("ranked"), find_encoder(str(tiny_model), "float32"), model)


def test_ifd_filters_what_the_instruction_does_not_help_and_rejects_what_it_cannot_read(pool):
    job = pool.job(strategy="ifd", budget=5)
    pool.compute(job, "asked", "alone")
    found = pool.decisions(job)
    expected = ifd_order(mean_losses(pool.store, pool.model.files, pool.ids))
    ratios = dict(expected.select("id", "ifd").iter_rows())
    best = sorted((-ratio, id_) for id_, ratio in ratios.items() if ratio is not None and ratio < 1)
    assert found.filter(fate="selected")["id"].to_list() == [id_ for _, id_ in best[:5]]
    assert found.filter(fate="over_budget")["id"].to_list() == [id_ for _, id_ in best[5:]]
    filtered = found.filter(fate="filtered")
    assert set(filtered["id"]) == {id_ for id_, ratio in ratios.items() if ratio is not None and ratio >= 1}
    assert len(filtered) and filtered["rank"].null_count() == len(filtered)
    for ifd, reason in filtered.select("ifd", "reason").iter_rows():
        assert reason == f"its answer is no likelier with the instruction: IFD {round(ifd, 2)}"
    [rejected] = found.filter(fate="rejected").rows(named=True)
    assert rejected["id"] == pool.unreadable() and "no tool messages here" in rejected["reason"]
    assert found.select("id", "ifd").sort("id").equals(expected.select("id", "ifd").sort("id"))


def test_perplexity_ranks_the_highest_first_and_is_in_the_decisions(pool):
    job = pool.job(strategy="perplexity", budget=4)
    pool.compute(job, "asked")
    found = pool.decisions(job)
    losses = mean_losses(pool.store, pool.model.files, pool.ids, alone=False).drop_nulls("answer_nll")
    ranked = losses.sort("answer_nll", "id", descending=[True, False])
    assert found.filter(pl.col("rank").is_not_null())["id"].to_list() == ranked["id"].to_list()
    assert found["perplexity"][:30].to_list() == pytest.approx(np.exp(ranked["answer_nll"].to_numpy()))
    assert found["fate"].to_list() == ["selected"] * 4 + ["over_budget"] * 26 + ["rejected"]


def test_wici_ranks_by_influence_and_rejects_what_can_be_no_demonstration(pool):
    job = pool.job(strategy="wici", budget=8, threshold=1.0)
    pool.compute(job, "asked", "alone")
    losses = mean_losses(pool.store, pool.model.files, pool.ids)
    probes = find_probes(pool.store, pool.encoder, losses)
    with pytest.raises(StoreError, match=f"lacks {len(probes)} losses"):
        select(pool.store, job)
    for shard in plan_shown(pool.store, pool.model.files, probes):
        compute_shown(pool.store, pool.model, shard)
    found = pool.decisions(job)
    shown = shown_losses(pool.store, pool.model.files, probes)
    expected = influence_order(shown, losses).sort("score", "id", descending=[True, False])
    assert found.filter(pl.col("rank").is_not_null())["id"].to_list() == expected["id"].to_list()
    assert found["influence"].drop_nulls().to_list() == expected["influence"].to_list()
    assert found.filter(fate="rejected")["id"].to_list() == [pool.unreadable()]


def test_rows_left_out_need_no_losses_and_are_no_probes(pool, tmp_path):
    fresh = Ranked(tmp_path / "fresh", pool.encoder, pool.model)
    gone = tuple(fresh.ids[:20])
    job = fresh.job(drop=gone, strategy="ifd", budget=5)
    fresh.compute(job, "asked", "alone")
    found = fresh.decisions(job)
    assert set(found.filter(pl.col("reason") == "it is named by the setting drop")["id"]) == set(gone)
    assert len(found) == 31 and found.filter(pl.col("id").is_in(gone))["ifd"].null_count() == 20


def test_target_takes_turns_over_tasks_and_names_the_task(pool, tmp_path):
    examples = tmp_path / "like.jsonl"
    told = [{"prompt": f"What of {topic}?", "task": topic} for topic in TOPICS[:3]]
    examples.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    key = encode_examples(pool.store, pool.encoder, lambda: load_encoder(pool.encoder), read_examples(str(examples)))
    job = pool.job(examples=key, strategy="rds", like=str(examples), budget=6)
    found = pool.decisions(job)
    assert found["task"][:6].to_list() == list(TOPICS[:3]) * 2
    assert found["fate"].to_list() == ["selected"] * 6 + ["over_budget"] * 25
    assert found["likeness"].is_between(-1, 1.001).all()
    # An export from a remote store on another machine has no examples.
    [path] = (pool.store.side / "examples").glob("*.parquet")
    path.unlink()
    assert order_columns(pool.store, job, found).columns == ["id"]


def test_instag_keeps_what_adds_a_tag_and_says_why_others_are_redundant(pool):
    found = pool.decisions(pool.job(strategy="instag", tags_field="tags", budget=30))
    tags = {id_: set(of) for id_, of in zip(pool.rows, TAGS, strict=True)}
    assert found["tags"].to_list() == sorted(map(len, tags.values()), reverse=True)
    covered = set()
    for id_, fate, reason in found.select("id", "fate", "reason").iter_rows():
        assert fate == ("selected" if tags[id_] - covered else "redundant")
        assert reason == (None if fate == "selected" else "rows that were taken before it have all its tags")
        covered |= tags[id_]
    assert pool.chosen.redundant == 31 - pool.chosen.selected > 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strategy": "rds"}, "give a file of them: like"),
        ({"strategy": "instag"}, "tags_field"),
        ({"diversity": "tags"}, "tags_field"),
    ],
)
def test_settings_that_lack_something_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        fitting(SelectionSettings(**settings))
