"""The block of the text model."""

from __future__ import annotations

from typing import ClassVar, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from repli.tasks.fallback import UsageError
from repli.tasks.settings import TEXT_MODEL, TEXT_MODEL_KEY, TEXT_MODEL_PRICE, Settings

HIGHEST_PRICE = 100_000.0


class TextModel(Block):
    """The text model of runs, which may be behind an API. An empty field has its default."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Repli Text Model"
    _block_type_slug = "repli-text-model"
    _description = (
        "The text model of Repli's runs, which may be behind an OpenAI-compatible API. Runs use the document named "
        f"`default`; `{TEXT_MODEL}` overrides all of it, so that a key goes to no other API."
    )

    model: str = Field(
        default="",
        title="Model",
        description="https://HOST/v1#MODEL for a model behind an API; package:MODULE, an absolute folder, or a "
        "sentence-transformers name for one that runs on the workers. Empty: MiniLM from a package.",
    )
    key: SecretStr = Field(
        default=SecretStr(""),
        title="Key",
        description="The key of the API. Stored as a secret. Empty: an API without one.",
    )
    price: float = Field(
        default=0,
        ge=0,
        le=HIGHEST_PRICE,
        title="Price",
        description="Of a million tokens, in the currency of the account; reports show the cost. 0: not known.",
    )

    @model_validator(mode="after")
    def _check_variables(self) -> Self:
        try:
            Settings.from_environment(self.variables())
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def variables(self) -> dict[str, str]:
        """Return the environment variables with the same settings, the key in clear text included."""
        price = f"{self.price:.9f}".rstrip("0").rstrip(".") if self.price else ""
        variables = {
            TEXT_MODEL: self.model,
            TEXT_MODEL_KEY: self.key.get_secret_value(),
            TEXT_MODEL_PRICE: price,
        }
        return {name: value for name, value in variables.items() if value}
