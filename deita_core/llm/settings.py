"""Settings of an endpoint: address, model, limits, prices and the key."""

import os
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deita_core.errors import LLMError
from deita_core.llm.errors import KEY_VARIABLES


class LLMLimits(BaseModel):
    """Limits on the use of an endpoint: concurrency, rates, timeouts, prices and a spend cap."""

    # Validation errors must not show a key that was put into the wrong field.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    concurrency: int = Field(16, ge=1, le=1_000, description="Requests in flight at most; fewer where it is slow.")
    requests_per_minute: float | None = Field(None, gt=0, description="Limit of requests; none: no limit.")
    tokens_per_minute: float | None = Field(None, gt=0, description="Limit of tokens, prompts and answers together.")
    timeout: float = Field(120.0, gt=0, description="Seconds of silence after which a request is given up.")
    attempts: int = Field(8, ge=1, description="How often a request is sent before it is given up.")
    first_pause: float = Field(1.0, ge=0, description="Seconds before the second attempt; doubled for each one after.")
    input_price: float | None = Field(None, ge=0, description="Price of a million prompt tokens.")
    output_price: float | None = Field(None, ge=0, description="Price of a million answer tokens.")
    spend_cap: float | None = Field(None, gt=0, description="Spend at which a job stops, over all its runs.")

    @model_validator(mode="after")
    def _cap_has_prices(self) -> "LLMLimits":
        if self.spend_cap is not None and (self.input_price is None or self.output_price is None):
            raise ValueError("spend_cap needs input_price and output_price, in the cap's currency per million tokens")
        return self

    @property
    def counts_tokens(self) -> bool:
        """Whether token counts are needed, for a price or for a limit."""
        return self.input_price is not None or self.tokens_per_minute is not None

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Return the price of so many tokens, or None if a price is not set."""
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1e6


class LLMSettings(LLMLimits):
    """A model at an endpoint, and the limits on its use. The key comes from the environment or a Prefect block."""

    base_url: str | None = Field(None, description="Address of the endpoint, up to /v1; none: that of OpenAI.")
    model: str = Field(min_length=1, description="Name of the model, as the endpoint knows it.")
    judge: str | None = Field(None, description="Model that ranks, at the same endpoint; none: the same model.")
    api_key_block: str | None = Field(None, description="A Prefect Secret block that holds the key.")
    temperature: float = Field(0.7, ge=0, le=2, description="Of evolution; ranking is always asked at 0.")
    seed: int = Field(0, ge=0, description="Sent with every request; a repeated request adds to it.")
    max_tokens: int = Field(2_048, ge=1, description="Longest answer, in tokens.")
    structured: Literal["auto", "off"] = Field("auto", description="Give the JSON schema of answers, if supported.")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        """Reject secrets in an address, because addresses are shown and recorded."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"an address holds no key, user or query; set {KEY_VARIABLES[0]} instead")
        return value.rstrip("/")


def find_key(settings: LLMSettings, from_block: str | None = None) -> str:
    """Return the key to send: from a block, else from the environment; a placeholder for endpoints that need none.

    Raises LLMError if the endpoint is OpenAI's own and no key is set, or if the key is invalid.
    """
    for key in (from_block, *(os.environ.get(name) for name in KEY_VARIABLES)):
        if key and (key := key.strip()):
            return check_key(key)
    if settings.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
        raise LLMError(f"There is no key; set {' or '.join(KEY_VARIABLES)}, or give the address of another endpoint.")
    return "none"


def check_key(key: str) -> str:
    """Return the key; raises LLMError, without showing it, if no HTTP header can hold it."""
    if not (key.isascii() and key.isprintable()):
        raise LLMError("The key holds a line break, a typographic quote or the like; set it again without.")
    return key
