"""The block of the item store."""

from __future__ import annotations

from typing import ClassVar, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from repli.tasks.fallback import UsageError
from repli.tasks.storage.database import Database


class ItemStore(Block):
    """The location of items, their results and the fetched bytes. An empty field has its default."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Item Store"
    _block_type_slug = "item-store"
    _description = (
        "The location of Repli's items, their results and the fetched bytes. Runs use the document named `default`; "
        "`REPLI_DATABASE_URL` and `REPLI_HOME` override it, and `repli serve` sets these variables."
    )

    database_url: SecretStr = Field(
        default=SecretStr(""),
        title="Database URL",
        description="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE. Stored as a secret. "
        "Empty: repli.db in the home.",
    )
    home: str = Field(
        default="",
        title="Home",
        description="The folder of the fetched bytes, which every worker must reach at this path. Empty: ~/.repli.",
    )

    @model_validator(mode="after")
    def _check_database_url(self) -> Self:
        if url := self.database_url.get_secret_value():
            try:
                Database(url)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return self

    def variables(self) -> dict[str, str]:
        """Return the environment variables with the same settings, the database URL in clear text included."""
        variables = {"REPLI_DATABASE_URL": self.database_url.get_secret_value(), "REPLI_HOME": self.home}
        return {name: value for name, value in variables.items() if value}
