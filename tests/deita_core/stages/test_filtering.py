"""What the filters of the settings leave out of a pool, and why."""

import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import Conversation, Message
from deita_core.errors import InputError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.reading.frames import Conversations
from deita_core.reading.rows import Sample
from deita_core.scorers import ScorerFiles
from deita_core.stages import filtering
from deita_core.stages.conditions import check_condition
from deita_core.stages.filtering import answer_repetition, filtered
from deita_core.stages.job import Job
from deita_core.stages.languages import find_languages, plan_languages
from deita_core.stages.leaving_out import left_out
from deita_core.stages.token_counts import TokenizerFiles
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES
from tests.support.languages import SENTENCES

FILES = ("a" * 32, "b" * 32)
ENCODER = EncoderFiles(name="tiny", path=".", dim=4, precision="float32", weights="w", fingerprint="e" * 32)
SCORERS = {
    axis: ScorerFiles(name=axis, axis=axis, path=None, fingerprint="1" * 32) for axis in ("complexity", "quality")
}
TOKENIZER = TokenizerFiles(name="words", fingerprint="7" * 32)
LOOP = "I do not know. " * 20


def asked(question, *answers):
    messages = [Message("user", question)]
    for answer in answers:
        messages += [Message("assistant", answer), Message("user", f"{question} And then?")]
    return Conversation(tuple(messages[:-1]))


class Pool:
    """A store with conversations, each a row of a file."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.lines = dict.fromkeys(FILES, 0)

    def add(self, *conversations, file=0, fields="{}"):
        found = Conversations()
        for c in conversations:
            found.add(Sample(1, c, c.id, c.is_multimodal, c.n_turns, c.n_chars, "messages", "{}"))
        self.store.write(SAMPLES, found.frame().select(SAMPLES.empty().columns))
        for c in conversations:
            self.lines[FILES[file]] += 1
            line = self.lines[FILES[file]]
            row = {"key": f"{FILES[file]}:{line}", "file_id": FILES[file], "file": f"{'ab'[file]}.jsonl", "line": line}
            row |= {"sample_id": c.id, "layout": "messages", "side": None, "fields": fields}
            self.store.write(SOURCES, pl.DataFrame([row], schema=SOURCES.empty().schema))
        return [c.id for c in conversations]

    def filtered(self, ids, scores=None, files=FILES, **settings):
        """The reason of each sample that is left out, by its id."""
        scored = pl.DataFrame({"id": ids, "score": scores or [4.0] * len(ids)})
        return dict(filtered(self.store, job(files=files, **settings), scored).iter_rows())


def job(files=FILES, drop=(), **settings):
    return Job(
        run_id="run",
        file_ids=files,
        encoder=ENCODER,
        **SCORERS,
        tokenizer=TOKENIZER,
        drop=drop,
        settings=SelectionSettings(**settings),
    )


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "store")


def test_without_filters_nothing_is_left_out(pool):
    ids = pool.add(asked("Who?", LOOP))
    assert pool.filtered(ids) == {}


def test_a_condition_keeps_conversations_with_a_row_that_meets_it(pool):
    first, second = pool.add(asked("One?", "1"), asked("Two?", "2"))
    [third] = pool.add(asked("Three?", "3"), file=1, fields='{"level":5}')
    pool.add(asked("One?", "1"), file=1)
    reason = "no row of it meets the condition of the setting where"
    ids = [first, second, third]
    assert pool.filtered(ids, where="line = 1") == {second: reason}
    # The first one stands in both files.
    assert pool.filtered(ids, where="file = 'b.jsonl'") == {second: reason}
    assert pool.filtered(ids, where="""fields LIKE '%"level":5%'""") == {first: reason, second: reason}


def test_rows_of_files_that_are_not_in_the_pool_meet_no_condition(pool):
    ids = pool.add(asked("One?", "1"))
    pool.add(asked("One?", "1"), file=1)
    assert set(pool.filtered(ids, files=FILES[:1], where="file = 'b.jsonl'")) == set(ids)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("lines = 3", "No field named lines"),
        ("line = ", "sql parser error"),
        ("line", "does not return a boolean"),
        ("line = 'abc'", "could not convert to literal of type 'Int64'"),
        ("regexp_like(file, '[')", "regex parse error"),
    ],
)
def test_a_condition_that_cannot_be_read_is_an_error_of_one_sentence_before_there_are_rows(where, said, pool):
    with pytest.raises(InputError) as caught:
        check_condition(where)
    sentence = str(caught.value)
    assert said in sentence
    assert sentence.endswith("; it is SQL on file, line, layout, fields, sample_id.")
    assert "\n" not in sentence
    assert ".rs" not in sentence
    ids = pool.add(asked("One?", "1"))
    with pytest.raises(InputError, match="cannot be read"):
        pool.filtered(ids, where=where)


def test_a_condition_that_can_be_read_is_none_of_those_errors():
    check_condition("file LIKE '%.jsonl' AND line BETWEEN 2 AND 9 OR layout = 'alpaca'")


def test_a_score_below_the_smallest_is_left_out_and_one_that_is_missing_is_not(pool):
    ids = pool.add(*(asked(f"{n}?", "Yes.") for n in range(4)))
    found = pool.filtered(ids, scores=[3.99, 4.0, None, 7.5], min_score=4)
    assert found == {ids[0]: "its score 3.99 is below 4"}


def test_conversations_in_other_languages_are_left_out(pool):
    said = [asked(SENTENCES[code][0], SENTENCES[code][6]) for code in ("en", "de", "fr", "zh")]
    ids = pool.add(*said, asked("2 + 2 =", "4"))
    for shard in plan_languages(pool.store, FILES):
        find_languages(pool.store, shard)
    assert pool.filtered(ids, language="en,de") == {
        ids[2]: "its language is fr, not en or de",
        ids[3]: "its language is zh, not en or de",
        ids[4]: "its language is not known to be en or de",
    }
    assert set(pool.filtered(ids, language=["zh"])) == {*ids[:3], ids[4]}
    assert pool.filtered(ids, language="zh")[ids[0]] == "its language is en, not zh"
    listed = "its language is fr, not en, de or ja"
    assert pool.filtered(ids, language="en,de,ja")[ids[2]] == listed


def test_answers_with_too_few_or_too_many_tokens_are_left_out(pool):
    ids = pool.add(*(asked(f"{n}?", "Yes.") for n in range(4)))
    counts = pl.DataFrame({"id": ids, "tokens": [9, 30, 30, 90], "answer_tokens": [4, 5, 20, 21]})
    pool.store.write(TOKENIZER.table, counts.cast(dict(TOKENIZER.table.empty().schema)))
    least, most = "its answers have 4 tokens, fewer than 5", "its answers have 21 tokens, more than 20"
    assert pool.filtered(ids, min_answer_tokens=5) == {ids[0]: least}
    assert pool.filtered(ids, max_answer_tokens=20) == {ids[3]: most}
    assert pool.filtered(ids, min_answer_tokens=5, max_answer_tokens=20) == {ids[0]: least, ids[3]: most}


def test_answers_that_repeat_themselves_are_left_out(pool):
    ids = pool.add(
        asked("Who?", LOOP),
        asked("Who? " * 20, "Nobody whom you know, as far as I can tell."),
        asked("Who?", f"<think>{LOOP}</think>Nobody whom you know."),
        asked("Who?", "Yes."),
    )
    # 80 words, 77 runs, 4 of them different.
    assert pool.filtered(ids, max_repetition=0.9) == {
        ids[0]: "0.9481 of its answers' 4-grams are repeated, more than 0.9"
    }
    assert pool.filtered(ids, max_repetition=0.95) == {}


def test_repetition_is_that_of_all_answers_whatever_the_blocks(pool, monkeypatch):
    ids = pool.add(*(asked(f"{n}?", LOOP[: 15 * n], "one two three four five") for n in range(1, 9)))
    at_once = answer_repetition(pool.store, pl.Series(ids))
    assert at_once["id"].to_list() == ids
    # n times four words, of which four runs are new, and two runs of the other answer.
    expected = [max(0, 4 * n - 3 - 4) / (4 * n - 3 + 2) for n in range(1, 9)]
    assert at_once["repetition"].to_list() == pytest.approx(expected)
    monkeypatch.setattr(filtering, "BLOCK", 3)
    assert answer_repetition(pool.store, pl.Series(ids)).equals(at_once)


def test_the_first_reason_counts(pool):
    ids = pool.add(asked("Who?", LOOP), asked("Why?", LOOP), asked("How?", LOOP))
    settings = {"where": "line > 1", "min_score": 3.0, "max_repetition": 0.5}
    found = pool.filtered(ids, scores=[1.0, 2.0, 4.0], **settings)
    assert [found[id_].split()[0:3] for id_ in ids] == [
        ["no", "row", "of"],
        ["its", "score", "2.0"],
        ["0.9481", "of", "its"],
    ]
    dropped = left_out(pool.store, job(drop=(ids[1],), **settings), pl.DataFrame({"id": ids, "score": [1.0, 2.0, 4.0]}))
    assert dropped["id"].to_list() == [ids[1], ids[0], ids[2]]
    assert set(dropped["fate"]) == {"filtered"}
    assert dropped["reason"][0] == "it is named by the setting drop"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"language": "en,xx"}, "xx"),
        ({"language": "deutsch"}, "deutsch"),
        ({"max_repetition": 1.5}, "max_repetition"),
        ({"min_score": float("nan")}, "min_score"),
        ({"min_answer_tokens": True}, "min_answer_tokens is True, and not a number"),
        ({"where": " "}, "where"),
    ],
)
def test_settings_that_are_none_name_themselves(settings, said):
    with pytest.raises(ValueError, match=said):
        SelectionSettings(**settings)


def test_codes_may_be_given_in_one_text_or_as_a_list():
    assert SelectionSettings(language="en, de,en,").language == ["en", "de"]
    assert SelectionSettings(language=["ja", "zh"]).language == ["ja", "zh"]
    assert SelectionSettings().language == []
