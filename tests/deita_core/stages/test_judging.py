"""Why a judge gave turns of a store no score, by its kept replies. No Prefect, no model."""

import json
import re

import pytest

from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_found
from deita_core.stages import judging
from deita_core.stages.ingest import describe_file, ingest_file, pool_ids
from deita_core.stages.judging import unread_lines, unread_turns
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.store import Store
from tests.support.llm_server import LLMServer

TURNS = 9


def by_turn(prompt):
    """Turns 0, 3, 6 are refused, turns 1, 4, 7 get another scale, and the others a score."""
    number = int(re.findall(r"^Turn (\d+)", prompt, re.MULTILINE)[-1])
    return ("I'm sorry, but I can't help with that.", "Score: 8/10", "Score: 4/6")[number % 3]


@pytest.fixture
def judged(tiny_model, tmp_path):
    """A store with conversations of three turns, scored by a judge; and the judge, and the id of the file."""
    conversations = [
        [{"role": role, "content": f"Turn {turn} {role}"} for turn in turns for role in ("user", "assistant")]
        for turns in ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    ]
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    store, encoder = Store(tmp_path / "store"), find_encoder(str(tiny_model), "float32")
    file_id = ingest_file(store, describe_file(str(file))).file_id
    with LLMServer(chat=by_turn) as server:
        judge = find_scorer(f"judge+{server.url}#m", "quality", encoder)
        for shard in plan_scoring(store, [judge], [file_id]):
            score_shard(store, [(load_found(judge, encoder, store.side), judge)], encoder, shard)
        assert len(server.log) == TURNS
    return store, judge, file_id


@pytest.mark.parametrize("at_once", [1, 2, 2_048])
def test_each_turn_without_a_score_has_its_reason(judged, monkeypatch, at_once):
    monkeypatch.setattr(judging, "SAMPLES_AT_ONCE", at_once)
    store, judge, file_id = judged
    ids = pool_ids(store, [file_id])
    found = unread_turns(store, judge, ids)
    assert sorted(found.select("turn", "reason").rows()) == [(0, "refused")] * 3 + [(1, "other_scale")] * 3
    assert unread_turns(store, judge, ids[:1]).rows() == found.filter(id=ids[0]).rows()
    assert unread_turns(store, judge, []).is_empty()


def test_a_line_counts_the_turns_of_a_pool_by_their_reasons(judged):
    store, judge, file_id = judged
    [line] = unread_lines(store, [judge], [file_id])
    assert line.startswith(f"No quality score from {judge.name} for 6 turns: ")
    assert "the reply is a refusal (3)" in line and "from 1 to 6 (3)" in line
    assert list(unread_lines(store, [judge], [])) == []
    assert list(unread_lines(store, [judge.model_copy(update={"kind": "served"})], [file_id])) == []
