"""A store with conversations whose vectors and scores are written by hand."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import conversation, text_id
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.job import Job
from deita_core.stages.selecting import decisions_of, select, with_nearest_selected
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES, scores_table, vectors_table

DIM = 4
FILE = "f" * 32
ENCODER = EncoderFiles(name="tiny", path=Path(), dim=DIM, precision="float32", weights="w", fingerprint="e" * 32)
COMPLEXITY = ScorerFiles(name="c", axis="complexity", path=Path(), fingerprint="1" * 32)
QUALITY = ScorerFiles(name="q", axis="quality", path=Path(), fingerprint="2" * 32)
VECTORS = vectors_table(ENCODER.slug, DIM)


class Pool:
    """A store with conversations whose vectors and scores were written by hand."""

    def __init__(self, folder):
        self.name_of = {}
        self._store = Store(folder)
        self._waiting = {}
        self._lines = 0

    @property
    def store(self):
        """The store, with everything added so far in it."""
        for table, rows in self._waiting.values():
            self._store.write(table, pl.DataFrame(list(rows.values()), schema=table.empty().schema))
        self._waiting = {}
        return self._store

    def add(self, name, vector, score=(2.0, 2.0), file_id=FILE, **fields):
        """A question and an answer, both with one vector; score: complexity and quality, None where unread."""
        messages = [("user", f"{name}?", vector), ("assistant", f"{name}!", vector)]
        return self.talk(name, messages, [score], file_id, fields=fields)

    def talk(self, name, messages, turn_scores, file_id=FILE, n_tokens=10, fields=None):
        talk = conversation((role, content) for role, content, _ in messages)
        self.name_of[talk.id] = name
        message_index = [
            {
                "role": m.role,
                "text_id": text_id(m.content),
                "n_chars": len(m.content),
                "blank": m.is_blank,
                "trained": True,
            }
            for m in talk.messages
        ]
        sample = {
            "id": talk.id,
            "messages": [{"role": m.role, "content": m.content} for m in talk.messages],
            "message_index": message_index,
            "multimodal": False,
            "n_turns": len(talk.turns),
            "n_chars": talk.n_chars,
        }
        self._lines += 1
        source = {"key": f"{file_id}:{self._lines}", "file_id": file_id, "file": "pool.jsonl", "line": self._lines}
        source |= {"sample_id": talk.id, "layout": "messages", "fields": json.dumps(fields or {})}
        self._write(SAMPLES, [sample])
        self._write(SOURCES, [source])
        texts = {text_id(content): vector for _, content, vector in messages if content.strip()}
        units = [(np.array(v, float) / np.linalg.norm(v)).tolist() for v in texts.values()]
        rows = [{"text_id": t, "n_tokens": n_tokens, "vector": u} for t, u in zip(texts, units, strict=True)]
        self._write(VECTORS, rows)
        for scorer, axis in ((COMPLEXITY, 0), (QUALITY, 1)):
            found = [(talk.id, turn, pair[axis]) for turn, pair in enumerate(turn_scores)]
            rows = [
                {"id": i, "turn": t, "score": s, "status": "unreadable" if s is None else "ok"} for i, t, s in found
            ]
            self._write(scores_table(scorer.slug), rows)
        return talk.id

    def _write(self, table, rows):
        _, waiting = self._waiting.setdefault(table.name, (table, {}))
        waiting.update((tuple(row[name] for name in table.key), row) for row in rows)

    def select(self, inputs=None, **settings):
        """What was chosen, and the fate of each sample by its name, in rank order; `inputs`: more of the job."""
        the_job = job(**settings).model_copy(update=inputs or {})
        chosen = select(self.store, the_job)
        rows = with_nearest_selected(self.store, the_job, decisions_of(self.store, the_job)).rows(named=True)
        names = {**self.name_of, None: None}
        for row in rows:
            row |= {"duplicate_of": names[row["duplicate_of"]], "nearest": names[row["nearest"]]}
        return chosen, {self.name_of[row["id"]]: row for row in rows}


def job(**settings):
    defaults = {"turns": "sum", "training_tokens": 2_048, "budget": None, "threshold": 0.9}
    return Job(
        run_id="run",
        file_ids=(FILE,),
        encoder=ENCODER,
        complexity=COMPLEXITY,
        quality=QUALITY,
        settings=SelectionSettings(**defaults | settings),
    )


def at(degrees):
    """A vector in a plane; two are as similar as the cosine of the angle between them."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0, 0]
