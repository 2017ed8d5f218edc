"""A causal language model that ranks rows by how likely their answers are: given what comes before, alone, or shown."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.alignment.chat import IGNORED, TokenRow, UnusableRowError, load_chat_tokenizer, sequences
from deita_core.alignment.likelihood import answer_losses
from deita_core.alignment.rows import TrainingRow
from deita_core.conversation import Conversation, content_id
from deita_core.errors import ModelError
from deita_core.literals import Precision
from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import (
    load_model,
    load_tokenizer,
    model_folder,
    on_device,
    positions,
    weights_id,
)
from deita_core.models.encoder_spec import best_precision
from deita_core.models.lm_encoder import SAME_DATE

# Increased whenever the same conversation would get another loss; part of every fingerprint.
LOSSES_VERSION = 1
Sample = tuple[str, Conversation]


class RankModelFiles(BaseModel):
    """A language model found on this machine; `fingerprint` identifies all that its losses depend on.

    `max_tokens`: where a conversation is cut.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    precision: Precision
    max_tokens: int
    fingerprint: str

    @property
    def slug(self) -> str:
        """A short name for the tables of its losses, different for every fingerprint."""
        return f"lm-{self.fingerprint[:16]}"


def find_rank_model(
    name: str, max_tokens: int, precision: Precision | Literal["auto"] = "auto"
) -> RankModelFiles:  # fmt: skip
    """Find a causal language model: a folder, smollm2-135m, or a hub name. Raises ModelError if there is none."""
    path = model_folder(name)
    precision = best_precision() if precision == "auto" else precision
    parts = [precision, str(max_tokens), str(LOSSES_VERSION), weights_id(path)]
    fingerprint = content_id("\n".join(parts).encode())
    return RankModelFiles(name=name, path=path, precision=precision, max_tokens=max_tokens, fingerprint=fingerprint)


class RankModel:
    """A loaded language model that gives losses of answers; threads take turns.

    Conversations are rendered by the model's chat template, or that of Vicuna where it has none, and cut at
    `max_tokens` or the model's positions, as in training. A loss is the negative log-likelihood in nats, summed over
    the tokens of all answers. The methods return a frame of id, loss, tokens (of the answers, as cut) and reason, one
    row per sample in their order. Where there is no answer to read, the loss is null, the tokens 0, and the reason says
    why.
    """

    def __init__(self, files: RankModelFiles, device: str = "auto", max_tokens_per_batch: int | None = None) -> None:
        self.files = files
        tokenizer = load_tokenizer(files.path)
        self.tokenizer = tokenizer if tokenizer.chat_template else load_chat_tokenizer(files.path, "vicuna")
        # Some templates insert today's date, which would change a loss every day.
        self.tokenizer.chat_template = SAME_DATE + self.tokenizer.get_chat_template()
        self._start = _answer_start(self.tokenizer, files.name)
        self._model = on_device(load_model(files.path, files.precision), device).eval()
        self._positions = positions(self._model) or 2 * files.max_tokens
        self._longest = min(files.max_tokens, self._positions)
        self._batch, self._turn = max_tokens_per_batch, Lock()

    def asked(self, samples: Sequence[Sample]) -> pl.DataFrame:
        """Losses of answers, each given all that comes before it in its conversation."""
        return self._losses((id_, self._read(sample)) for id_, sample in samples)

    def alone(self, samples: Sequence[Sample]) -> pl.DataFrame:
        """Losses of the same tokens, each answer given only what begins an answer."""

        def answers(sample: Conversation) -> Iterator[TokenRow]:
            for row in self._read(sample):
                for answered, run in groupby(row.labels, lambda label: label != IGNORED):
                    if answered:
                        labels = list(run)
                        yield TokenRow(self._start + labels, [IGNORED] * len(self._start) + labels)

        return self._losses((id_, answers(sample)) for id_, sample in samples)

    def shown(self, pairs: Sequence[tuple[str, Conversation, Conversation]]) -> pl.DataFrame:
        """Losses of the answers of probes, given what comes before and one demonstration: id of a pair, both.

        A demonstration that does not fit before its probe, in the model's positions or twice `max_tokens`, is cut at
        its end. Without any of its answers the pair cannot be read.
        """

        def rows(demonstration: Conversation, probe: Conversation) -> Iterator[TokenRow]:
            shown = list(self._read(demonstration))[-1]
            for row in self._read(probe):
                room = min(self._positions, 2 * self.files.max_tokens) - len(row.ids)
                if all(label == IGNORED for label in shown.labels[: max(room, 0)]):
                    raise UnusableRowError("the demonstration does not fit before it")
                before = shown.ids[:room]
                yield TokenRow(before + row.ids, [IGNORED] * len(before) + row.labels)

        return self._losses((id_, rows(demonstration, probe)) for id_, demonstration, probe in pairs)

    def _read(self, sample: Conversation) -> Iterator[TokenRow]:
        return (row for row, _ in sequences(self.tokenizer, sample, self._longest))

    def _losses(self, given: Iterable[tuple[str, Iterable[TokenRow]]]) -> pl.DataFrame:
        rows, reasons = list[TrainingRow](), dict[str, str | None]()
        with self._turn:
            for id_, found in given:
                try:
                    rows += [TrainingRow(id_, row.ids, row.labels) for row in list(found)]
                    reasons[id_] = None
                except UnusableRowError as error:
                    reasons[id_] = str(error)
            losses = answer_losses(
                self._model, rows, max_tokens_per_batch=self._batch, watch=lambda _: check_cancelled()
            )
        sums = losses.group_by("id", maintain_order=True).sum()
        frame = pl.DataFrame(list(reasons.items()), schema={"id": pl.String, "reason": pl.String}, orient="row")
        frame = frame.join(sums, on="id", how="left", maintain_order="left")
        lost = pl.col("reason").is_null() & ~pl.col("loss").is_finite()
        why = pl.lit(f"its likelihood is not finite in {self.files.precision}")
        frame = frame.with_columns(reason=pl.when(lost).then(why).otherwise("reason"))
        read = pl.col("reason").is_null()
        tokens = pl.when(read).then("tokens").otherwise(0).cast(pl.Int32)
        return frame.select("id", loss=pl.when(read).then("loss"), tokens=tokens, reason="reason")


def _answer_start(tokenizer: Any, name: str) -> list[int]:
    """The tokens that begin an answer without anything before it: of the text's start, and of the generation prompt.

    Raises ModelError if there is none, because then the first token of an answer has no likelihood.
    """
    question = [{"role": "user", "content": "?"}]
    asked, prompted = (
        str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=prompt))
        for prompt in (False, True)
    )
    prompt = prompted[len(asked) :] if prompted.startswith(asked) else ""
    ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else []
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None or ids else tokenizer.eos_token_id
    if first is None and not ids:
        raise ModelError(f"The tokenizer of {name} has no token that begins a text; give another model.")
    return ids if first is None or ids[:1] == [first] else [first, *ids]
