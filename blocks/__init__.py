"""Prefect blocks: the settings that an operator edits in the UI.

``prefect block register -m repli.blocks`` registers them. The edge of a flow converts each to plain values, and tasks
receive only those. `repli.flows.config.resolve` selects the blocks that a run uses.
"""

from repli.blocks.cluster import Cluster
from repli.blocks.enrichment_policy import EnrichmentPolicy
from repli.blocks.item_store import ItemStore

__all__ = ["Cluster", "EnrichmentPolicy", "ItemStore"]
