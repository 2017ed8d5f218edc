"""A cascade: fast scorers rank the pool, and a slow one scores the best again. No Prefect, tiny models."""

import json

import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings, fitting
from deita_core.errors import InputError
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_found
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.exporting import prepare_export
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.ranking import best_to_refine
from deita_core.stages.report import Report
from deita_core.stages.scoring import plan_samples, plan_scoring, score_shard
from deita_core.stages.selecting import select
from deita_core.store import Store
from deita_core.tables import scores_table
from tests.support.installation import make_heads
from tests.support.pools import ALPACA, MESSAGES, MORE
from tests.support.tiny_classifiers import make_reward_llama

ROWS = [*ALPACA, *MESSAGES[::2]]
BUDGET, FACTOR = 2, 3
BEST = BUDGET * FACTOR
# A reward model that cannot read what a fast scorer can.
TEMPLATE = (
    "{% for m in messages %}{% if 'UNREADABLE' in m.content %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)


class Cascade:
    """A store with files of rows, encoded and scored by tiny models."""

    def __init__(self, folder, models):
        self.folder, self.store = folder, Store(folder / "store")
        self.encoder = find_encoder(str(models / "encoder"), "float32")
        self.fast = [find_scorer(str(models / axis), axis, self.encoder) for axis in ("complexity", "quality")]
        self.slow = find_scorer(str(models / "slow"), "quality", self.encoder, "float32")
        self.files = []

    def add(self, rows):
        """Read, encode and score another file."""
        path = self.folder / f"{len(self.files)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.files.append(ingest_file(self.store, describe_file(str(path))))
        ids = [file.file_id for file in self.files]
        for shard in plan_encoding(self.store, self.encoder, ids):
            encode_shard(self.store, load_encoder(self.encoder), shard)
        for scorer in self.fast:
            self._score(scorer, plan_scoring(self.store, [scorer], ids))
        return self

    def _score(self, scorer, shards):
        return sum(
            score_shard(self.store, [(load_found(scorer, self.encoder), scorer)], self.encoder, shard)
            for shard in shards
        )

    def run(self, refine=True):
        """What was chosen, the decisions as exported, by rank, and how many turns were scored again."""
        complexity, quality = self.fast
        ids = tuple(file.file_id for file in self.files)
        settings = SelectionSettings(threshold=0.9, budget=BUDGET, refine_factor=FACTOR)
        job = Job(run_id=f"{len(ids)}-{refine}", file_ids=ids, encoder=self.encoder, complexity=complexity,
                  quality=quality, refine=self.slow if refine else None, settings=settings)  # fmt: skip
        again = 0
        if refine:
            again = self._score(self.slow, plan_samples(self.store, [self.slow], best_to_refine(self.store, job)))
        chosen = select(self.store, job)
        out = self.folder / job.run_id
        report = Report(
            job=job, snapshot=1, previous=None, pool=[], cwd=".", folder=str(out), files=self.files, chosen=chosen,
            encoded=0, scored=0, seconds={},
        )  # fmt: skip
        prepare_export(self.store, report, out)
        decisions = pl.read_parquet(out / ".decisions.parquet.partial").filter(pl.col("rank").is_not_null())
        return chosen, decisions.sort("rank"), again

    def values(self):
        """What the slow scorer has given to samples of one turn, by id."""
        return dict(self.store.read(scores_table(self.slow.slug), ["id", "raw"]).iter_rows())


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    """A folder with the tiny encoder, fast heads of both axes and a slow reward model."""
    folder = tmp_path_factory.mktemp("refine")
    make_heads(folder, tiny_model)
    (folder / "encoder").symlink_to(tiny_model)
    make_reward_llama(folder / "slow", template=TEMPLATE)
    return folder


def refined(fast, values):
    """The ids in the order of the cascade, and how many the slow scorer decides; written from its description."""
    best = fast.filter(pl.col("rank") <= BEST).select("id", "complexity").rows()
    known = [values[id_] for id_, _ in best if values[id_] is not None]
    scores = {}
    for id_, complexity in best:
        if values[id_] is not None:
            quantile = sum(value < values[id_] for value in known) / (len(known) - 1)
            scores[id_] = complexity * (1 + 5 * quantile)
    first = sorted(scores, key=lambda id_: (-scores[id_], id_))
    return [*first, *(id_ for id_ in fast["id"] if id_ not in scores)], len(first)


def test_the_best_are_ranked_by_the_slow_scorer_and_the_rest_follow_in_their_order(models, tmp_path):
    cascade = Cascade(tmp_path, models).add(ROWS)
    _, fast, _ = cascade.run(refine=False)
    chosen, slow, _ = cascade.run()
    assert set(cascade.values()) == set(fast["id"].head(BEST)), "no other sample is scored again"
    order, decided = refined(fast, cascade.values())
    assert slow["id"].to_list() == order != fast["id"].to_list()
    assert chosen.refined == decided == BEST
    columns = ["id", "score", "quality"]
    assert slow.tail(-BEST).select(columns).equals(fast.tail(-BEST).select(columns))


def test_decisions_say_which_scorer_decided_and_what_it_gave(models, tmp_path):
    cascade = Cascade(tmp_path, models).add(ROWS)
    _, slow, _ = cascade.run()
    rest = len(ROWS) - BEST
    assert slow["scorer"].to_list() == [cascade.slow.name] * BEST + [cascade.fast[1].name] * rest
    values = cascade.values()
    assert slow["quality_refined"].to_list() == [values[id_] for id_ in slow["id"].head(BEST)] + [None] * rest
    assert not {"scorer", "quality_refined"} & set(cascade.run(refine=False)[1].columns)


def test_a_grown_pool_refines_only_samples_that_are_new_among_the_best(models, tmp_path):
    (tmp_path / "grown").mkdir()
    (tmp_path / "fresh").mkdir()
    grown = Cascade(tmp_path / "grown", models).add(ROWS)
    assert grown.run()[2] == BEST
    before = grown.values()
    chosen, slow, again = grown.add(MORE).run()
    best = set(slow["id"].head(BEST))
    assert again == len(best - set(before)) == len(grown.values()) - len(before)
    fresh = Cascade(tmp_path / "fresh", models).add(ROWS).add(MORE)
    expected, from_scratch, _ = fresh.run()
    assert chosen == expected
    columns = ["id", "rank", "fate", "score", "quality", "scorer"]
    assert slow.select(columns).equals(from_scratch.select(columns))
    assert grown.run()[2] == 0


def test_a_sample_that_the_slow_scorer_cannot_read_keeps_its_place_among_the_rest(models, tmp_path):
    rows = [{**row, "output": f"{row['output']} UNREADABLE"} if i % 2 else row for i, row in enumerate(ALPACA)]
    cascade = Cascade(tmp_path, models).add(rows)
    _, fast, _ = cascade.run(refine=False)
    chosen, slow, _ = cascade.run()
    order, decided = refined(fast, cascade.values())
    assert 0 < decided < BEST
    assert slow["id"].to_list() == order
    assert chosen.refined == decided == (slow["scorer"] == cascade.slow.name).sum()


def test_a_budget_is_needed_to_refine():
    with pytest.raises(InputError, match="give a budget as well"):
        fitting(SelectionSettings(refine="slow"))
