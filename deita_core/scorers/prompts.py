"""The two prompts of a causal scorer; the released checkpoints need every space of them."""

from collections.abc import Sequence

from deita_core.errors import InputError
from deita_core.literals import Axis

# The parts before, between and after the texts; the query is followed by two spaces, each final colon by one.
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
    """Return the prompt after which a scorer prints one digit, 1 to 6; the complexity axis ignores the response.

    Raises InputError on the quality axis without a response.
    """
    return framed(axis, texts_of(axis, instruction, response))


def texts_of(axis: Axis, instruction: str, response: str | None = None) -> tuple[str, ...]:
    """Return the texts that an axis reads, in prompt order."""
    if axis == "complexity":
        return (instruction,)
    if response is None:
        raise InputError("Quality is scored on answers; give a response.")
    return (instruction, response)


def framed(axis: Axis, texts: Sequence[str]) -> str:
    """Return the prompt around the texts of `texts_of`."""
    before, *after = FRAMES[axis]
    return before + "".join(text + part for text, part in zip(texts, after, strict=True))


def text_start(axis: Axis, texts: Sequence[str], place: int) -> int:
    """Return the character offset in the prompt at which the text number `place` begins."""
    return sum(map(len, FRAMES[axis][: place + 1])) + sum(map(len, texts[:place]))
