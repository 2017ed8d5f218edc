"""The two prompts of a causal scorer, to the letter: the released checkpoints were trained on every space of them."""

from collections.abc import Sequence

from deita_core.errors import InputError
from deita_core.literals import Axis

# What stands before, between and after the texts; two spaces end the query, one follows each last colon.
FRAMES: dict[Axis, tuple[str, ...]] = {
    "complexity": (
        "You are a helpful assistant. Please identify the complexity score of the following user query. \n##Query: ",
        "  \n##Complexity: ",
    ),
    "quality": (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
        "Question. \n #Question#:\n",
        "\n#Response#:\n",
        " \n##Quality: ",
    ),
}


def scoring_prompt(axis: Axis, instruction: str, response: str | None = None) -> str:
    """The prompt after which a scorer prints one digit, 1 to 6; the complexity axis leaves the response unread.

    Raises InputError on the quality axis without a response.
    """
    return framed(axis, texts_of(axis, instruction, response))


def texts_of(axis: Axis, instruction: str, response: str | None = None) -> tuple[str, ...]:
    """The texts an axis reads, in their order in the prompt."""
    if axis == "complexity":
        return (instruction,)
    if response is None:
        raise InputError("Quality is scored on answers; give a response.")
    return (instruction, response)


def framed(axis: Axis, texts: Sequence[str]) -> str:
    """The prompt around texts of `texts_of`."""
    before, *after = FRAMES[axis]
    return before + "".join(text + part for text, part in zip(texts, after, strict=True))


def text_start(axis: Axis, texts: Sequence[str], place: int) -> int:
    """The character of the prompt at which the text of a place begins."""
    return sum(map(len, FRAMES[axis][: place + 1])) + sum(map(len, texts[:place]))
