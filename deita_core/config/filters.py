"""Settings that leave conversations out before the ranking."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from deita_core.errors import InputError
from deita_core.literals import Language


def _codes(given: Any) -> Any:
    """Codes separated by commas, as a flag or an environment variable holds them, as a list without repetitions."""
    if isinstance(given, str):
        given = [code.strip() for code in given.split(",") if code.strip()]
    return list(dict.fromkeys(given)) if isinstance(given, list) else given


class FilterSettings(BaseModel):
    """What a conversation must be like to be ranked; one that is not has the fate filtered."""

    where: Annotated[str, Field(pattern=r"\S")] | None = Field(
        None, description="SQL condition on file, line, layout, fields (the row as JSON), sample_id that a row meets."
    )
    min_score: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Smallest score (complexity x quality), whatever is ranked by."
    )
    language: Annotated[list[Language], BeforeValidator(_codes)] = Field(
        [], description="Codes of the languages in which most is said, such as en,de; none: any."
    )
    max_repetition: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Largest share of the 4-grams of the answers that are repeated."
    )
    min_answer_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Fewest tokens of all answers together."
    )
    max_answer_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most tokens of all answers together."
    )

    @property
    def filters_tokens(self) -> bool:
        """True if the tokens of answers are limited."""
        return self.min_answer_tokens is not None or self.max_answer_tokens is not None


def check_limits(settings: FilterSettings) -> None:
    """Raise InputError for settings that no conversation can meet."""
    least, most = settings.min_answer_tokens, settings.max_answer_tokens
    if least is not None and most is not None and least > most:
        raise InputError(f"No answers have at least {least:,} and at most {most:,} tokens; give other limits.")
