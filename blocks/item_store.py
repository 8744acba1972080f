"""The block that says where items lie."""

from __future__ import annotations

from typing import ClassVar, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from repli.tasks.fallback import UsageError
from repli.tasks.storage.database import Database


class ItemStore(Block):
    """Where items, their results and the fetched bytes lie. A field that is left empty is as without the block."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Item Store"
    _block_type_slug = "item-store"
    _description = (
        "Where Repli keeps items, their results and the bytes that it fetched. Runs go by the document named "
        "`default`; `REPLI_DATABASE_URL` and `REPLI_HOME`, where they are set, go before it; `repli serve` sets them."
    )

    database_url: SecretStr = Field(
        default=SecretStr(""),
        title="Database URL",
        description="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE. Kept as a secret. "
        "Empty: repli.db under the home.",
    )
    home: str = Field(
        default="",
        title="Home",
        description="The folder of the fetched bytes; every worker must see it under this path. Empty: ~/.repli.",
    )

    @model_validator(mode="after")
    def _can_be_reached_by_its_url(self) -> Self:
        if url := self.database_url.get_secret_value():
            try:
                Database(url)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return self

    def variables(self) -> dict[str, str]:
        """What it says, as the variables that say the same. It holds the secret."""
        said = {"REPLI_DATABASE_URL": self.database_url.get_secret_value(), "REPLI_HOME": self.home}
        return {name: value for name, value in said.items() if value}
