"""The block of the Dask cluster."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field


class Cluster(Block):
    """The Dask cluster that executes runs: one for each run, unless a scheduler is set."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Repli Cluster"
    _block_type_slug = "repli-cluster"
    _description = (
        "The Dask cluster that executes Repli's runs. Without an address, each run starts one on its own machine. Runs "
        "use the document named `default`; `REPLI_DASK_ADDRESS` overrides it, and `repli serve` sets that variable."
    )

    dask_address: str = Field(
        default="",
        title="Dask scheduler",
        description="The address of a running scheduler, such as tcp://scheduler:8786. Its workers need this package, "
        "the same home, and a database and a Prefect server that they can reach. Empty: a cluster for each run.",
        pattern=r"^((tcp|tls|ws|wss)://[^\s/@]+:[0-9]{1,5})?$",
    )

    def variables(self) -> dict[str, str]:
        """Return the environment variable with the same setting, if one is set."""
        return {"REPLI_DASK_ADDRESS": self.dask_address} if self.dask_address else {}
