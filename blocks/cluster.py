"""The block that says where the work is done."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field


class Cluster(Block):
    """The Dask cluster that does the work: one of the run's own, unless a scheduler is named."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Repli Cluster"
    _block_type_slug = "repli-cluster"
    _description = (
        "The Dask cluster that does Repli's work. With nothing set, each run starts one on its own machine. Runs go by "
        "the document named `default`; `REPLI_DASK_ADDRESS`, where it is set, goes before it; `repli serve` sets it."
    )

    dask_address: str = Field(
        default="",
        title="Dask scheduler",
        description="The address of a standing scheduler, such as tcp://scheduler:8786. Its workers need this package, "
        "the same home, and a database and a Prefect server that they can reach. Empty: a cluster for each run.",
        pattern=r"^((tcp|tls|ws|wss)://[^\s/@]+:[0-9]{1,5})?$",
    )

    def variables(self) -> dict[str, str]:
        """What it says, as the variable that says the same."""
        return {"REPLI_DASK_ADDRESS": self.dask_address} if self.dask_address else {}
