"""Renders conversations with a chat template, and finds the tokens that carry loss: those the model would generate.

Templates differ in what they do to a conversation (trim, inject a system message, drop earlier reasoning), so nothing
is assumed about their texts. An answer is what a template adds to the rendered prompt of that answer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from deita_core.conversation import CALLS, TOOLS, Conversation, pair_turns
from deita_core.errors import InputError, ModelError, cause
from deita_core.export.layouts import in_layout
from deita_core.models.causal_lm import load_tokenizer

IGNORED = -100
# The template of Vicuna 1.1, in which the released models were trained. The model's own token ends an answer.
VICUNA = (
    "{{ bos_token or '' }}"
    "{% if messages and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
    "{% else %}{{ 'A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions. ' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
    "{% elif message['role'] != 'system' or not loop.first %}"
    "{{ raise_exception('this template has no ' + message['role'] + ' messages here') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {"vicuna": VICUNA, "chatml": CHATML}
CHATML_END = "<|im_end|>"


@dataclass(frozen=True)
class TokenRow:
    """Token ids of a rendered conversation, and labels: the ids where they carry loss, IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]


class UnusableRowError(ValueError):
    """A conversation cannot be rendered, or nothing of it is an answer to train on."""


def load_chat_tokenizer(model: str | Path, template: str | None = None) -> Any:
    """Load a model's tokenizer with its own chat template, or with vicuna, chatml, or one in a file.

    Raises ModelError if the model has none and none is given, or if chatml's tokens are not the model's; InputError if
    a file cannot be read.
    """
    tokenizer = load_tokenizer(model)
    if template is None:
        if not tokenizer.chat_template:
            raise ModelError(f"The model {model} has no chat template; give --chat-template vicuna, chatml or a file.")
        return tokenizer
    tokenizer.chat_template = TEMPLATES.get(template) or _read_template(template)
    if template == "chatml":
        if tokenizer.convert_tokens_to_ids(CHATML_END) in (None, tokenizer.unk_token_id):
            raise ModelError(
                f"The tokenizer of {model} has no token {CHATML_END}, so nothing would end an answer; give "
                f"--chat-template vicuna, which ends it with the model's own token."
            )
        tokenizer.eos_token = CHATML_END
    elif tokenizer.eos_token is None:
        raise ModelError(f"The tokenizer of {model} has no end token, so nothing would end an answer; give another.")
    return tokenizer


def _read_template(template: str) -> str:
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The chat template {template} cannot be read ({cause(error)}); give vicuna, chatml or a file."
        ) from None


def sequences(tokenizer: Any, sample: Conversation, max_tokens: int, first: int = 0) -> Iterator[tuple[TokenRow, bool]]:
    """Yield what to train on for a conversation, cut to `max_tokens` at its end, and whether it was cut.

    It is one sequence; several if the template renders an earlier answer otherwise once a later one follows, as
    templates do that drop earlier reasoning: then each answer is trained in the conversation up to it. Messages after
    the last answer are left out. Sequences with no label left are left out. Of the answers only those from message
    `first` on carry loss. Raises UnusableRowError if none is left.
    """
    found = 0
    cut_away = False
    for text, spans in answer_spans(tokenizer, sample, first):
        whole = _encode(tokenizer, text, spans)
        was_cut = len(whole.ids) > max_tokens
        kept = TokenRow(whole.ids[:max_tokens], whole.labels[:max_tokens])
        if any(label != IGNORED for label in kept.labels):
            found += 1
            yield kept, was_cut
        cut_away |= was_cut
    if not found:
        raise UnusableRowError(f"no answer begins within {max_tokens:,} tokens" if cut_away else "it has no answer")


def answer_spans(tokenizer: Any, sample: Conversation, first: int = 0) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return rendered texts, each with the spans (start, end) in characters that a model would generate.

    A span ends with the token that ends the answer, if the template has one. Raises UnusableRowError.
    """
    row = in_layout(sample, "messages", {})
    messages = _as_template_reads(row)
    shift = len(messages) - len(sample.messages)
    turns = pair_turns((m.role, m.is_blank, m.is_trained) for m in sample.messages)
    answers = [position + shift for _, assistant in turns for position in assistant if position >= first]
    parts = []
    for position in answers:
        before = _render(tokenizer, row, messages[:position], prompt=True)
        upto = _render(tokenizer, row, messages[: position + 1], prompt=False)
        parts.append((upto, (_shared(before, upto), _end(tokenizer, upto))))
    if not parts:
        return []
    longest = parts[-1][0]
    if all(longest.startswith(upto) for upto, _ in parts):
        return [(longest, [span for _, span in parts])]
    return [(upto, [span]) for upto, span in parts]


def _as_template_reads(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's messages as chat templates expect them: a system text first, arguments of calls as objects."""
    messages = [dict(message) for message in row["messages"]]
    for message in messages:
        for name in CALLS:
            if name in message:
                message[name] = _with_arguments(message[name])
    if row.get("system") and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row["system"]})
    return messages


def _with_arguments(call: Any) -> Any:
    """A call, or a list of calls, whose arguments are objects; endpoints write them as JSON text."""
    if isinstance(call, list):
        return [_with_arguments(each) for each in call]
    if not isinstance(call, dict):
        return call
    inner = {name: _with_arguments(call["function"]) for name in ("function",) if name in call}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = arguments
        inner["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {**call, **inner}


def _render(tokenizer: Any, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
    tools = next((row[name] for name in TOOLS if row.get(name)), None)
    options = row.get("chat_template_kwargs") or {}
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            documents=row.get("documents"),
            add_generation_prompt=prompt,
            tokenize=False,
            **{name: value for name, value in options.items() if name not in ("tokenize", "add_generation_prompt")},
        )
    except Exception as error:
        # Templates raise what they like: jinja2's errors for refused roles, TypeError for a content without a text.
        raise UnusableRowError(f"the chat template refuses it ({cause(error)})") from None


def _shared(first: str, second: str) -> int:
    """Characters at the start of both texts."""
    if second.startswith(first):
        return len(first)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _end(tokenizer: Any, text: str) -> int:
    """Where the last answer of a text ends: after its end token, before the whitespace that templates put there."""
    shown = text.rstrip()
    specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return len(shown) if shown.endswith(tuple(filter(None, specials))) else len(text)


def _encode(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]) -> TokenRow:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels = encoded["input_ids"], [IGNORED] * len(encoded["input_ids"])
    left = iter(spans)
    span = next(left, None)
    for position, (start, end) in enumerate(encoded["offset_mapping"]):
        while span and start >= span[1]:
            span = next(left, None)
        # A token that begins before the answer and ends in it is one that the model has to predict.
        if span and end > span[0] and start < end:
            labels[position] = ids[position]
    return TokenRow(ids, labels)
