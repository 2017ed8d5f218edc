"""The languages of stored conversations: each found once, none made up."""

import polars as pl
import pytest

from deita_core.conversation import Conversation, Message
from deita_core.errors import StoreError
from deita_core.reading.frames import Conversations
from deita_core.reading.rows import Sample
from deita_core.stages import languages
from deita_core.stages.languages import find_languages, plan_languages, sample_languages, table
from deita_core.stages.removal import remove
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES
from tests.support.languages import SENTENCES

FILE = "f" * 32


def talk(*messages):
    return Conversation(tuple(Message(*message) for message in messages))


def asked(code, number=6):
    return talk(("user", SENTENCES[code][0]), ("assistant", SENTENCES[code][number]))


class Pool:
    """A store with conversations of one file."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.lines = 0

    def add(self, *conversations):
        """Add conversations; returns their ids."""
        found = Conversations()
        for c in conversations:
            found.add(Sample(1, c, c.id, c.is_multimodal, c.n_turns, c.n_chars, "messages", "{}"))
        self.store.write(SAMPLES, found.frame().select(SAMPLES.empty().columns))
        ids = [c.id for c in conversations]
        numbers = range(self.lines + 1, self.lines + len(ids) + 1)
        sources = pl.DataFrame(
            {"key": [f"{FILE}:{n}" for n in numbers], "line": list(numbers), "sample_id": ids}
        ).with_columns(
            file_id=pl.lit(FILE), file=pl.lit("pool.jsonl"), layout=pl.lit("messages"), side=pl.lit(None, pl.String),
            fields=pl.lit("{}"),
        )  # fmt: skip
        self.store.write(SOURCES, sources.select(SOURCES.empty().columns))
        self.lines += len(ids)
        return pl.Series(ids)

    def find(self):
        """Find what is missing; returns the number of samples in each shard."""
        return [find_languages(self.store, shard) for shard in plan_languages(self.store, [FILE])]


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "store")


def test_each_conversation_gets_the_language_of_what_is_said(pool):
    english, german = SENTENCES["en"], SENTENCES["de"]
    ids = pool.add(
        asked("de"),
        talk(("system", " ".join(english)), ("user", german[0]), ("assistant", german[6])),
        talk(("user", german[0]), ("assistant", f"<think>{' '.join(english)}</think>{german[7]}")),
        talk(("user", german[0]), ("assistant", german[8]), ("tool", " ".join(english)), ("assistant", german[9])),
        talk(("user", "2 + 2 ="), ("assistant", "4")),
    )
    assert pool.find() == [5]
    assert sample_languages(pool.store, ids).to_list() == ["de", "de", "de", "de", None]
    assert sample_languages(pool.store, ids.reverse()).to_list() == [None, "de", "de", "de", "de"]


def test_languages_are_found_once(pool):
    first = pool.add(asked("fr"), talk(("user", "1"), ("assistant", "2")))
    assert pool.find() == [2]
    assert pool.find() == []
    more = pool.add(asked("ja"))
    assert pool.find() == [1]
    assert sample_languages(pool.store, pl.concat([more, first])).to_list() == ["ja", "fr", None]


def test_a_broken_off_shard_is_done_again_as_it_was_planned(pool, monkeypatch):
    monkeypatch.setattr(languages, "TURNS_PER_SHARD", 2)
    ids = pool.add(*(asked("es", number) for number in range(6, 12)))
    planned = plan_languages(pool.store, [FILE])
    assert [shard.rows for shard in planned] == [2, 2, 2]
    find_languages(pool.store, planned[1])
    assert plan_languages(pool.store, [FILE]) == [planned[0], planned[2]]
    find_languages(pool.store, planned[1])
    assert pool.find() == [2, 2]
    assert pool.store.count(table()) == 6
    assert sample_languages(pool.store, ids).to_list() == ["es"] * 6


def test_a_removed_conversation_leaves_no_language(pool):
    ids = pool.add(asked("en"), asked("sv"))
    pool.find()
    remove(pool.store, [ids[0]], "asked for")
    assert pool.store.read(table())["id"].to_list() == [ids[1]]


def test_a_language_not_looked_for_is_an_error_and_not_unknown(pool):
    ids = pool.add(asked("ko"))
    with pytest.raises(StoreError, match=r"lacks the language of 1 samples; run the command again\."):
        sample_languages(pool.store, ids)


def test_another_version_of_the_detector_finds_them_again(pool, monkeypatch):
    pool.add(asked("tr"))
    pool.find()
    monkeypatch.setattr("deita_core.reading.language.SURE", 0.4)
    assert pool.find() == [1]
