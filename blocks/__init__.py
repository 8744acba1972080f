"""Prefect blocks: the settings that an operator edits in the UI.

``prefect block register -m repli.blocks`` registers them. The edge of a flow converts each to plain values, and tasks
receive only those. `repli.flows.config.resolve` selects the blocks that a run uses.

`EnrichmentPolicy` has a form of the stages and rungs of the pipeline that the environment, or its store, names: it is
built when it is asked for, so that importing this package imports no pipeline.
"""

from typing import TYPE_CHECKING, Any

from repli.blocks.cluster import Cluster
from repli.blocks.item_store import ItemStore
from repli.blocks.text_model import TextModel

if TYPE_CHECKING:
    from repli.blocks.enrichment_policy import PolicyBlock as EnrichmentPolicy

__all__ = ["Cluster", "EnrichmentPolicy", "ItemStore", "TextModel"]


def __getattr__(name: str) -> Any:
    """Return the block `EnrichmentPolicy` of the chosen pipeline."""
    if name != "EnrichmentPolicy":
        raise AttributeError(f"{__name__} has no {name!r}")
    from repli.blocks.enrichment_policy import policy_block
    from repli.tasks.execution.run_pipeline import choose
    from repli.tasks.settings import Settings
    from repli.tasks.storage.database import Database

    settings = Settings.from_environment()
    return policy_block(choose(settings, Database(settings.database_url)).declared)


def __dir__() -> list[str]:
    """Return the names, `EnrichmentPolicy` too: Prefect registers the blocks that it finds here."""
    return [*globals(), "EnrichmentPolicy"]
