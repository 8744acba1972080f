"""Prefect blocks: what a person configures in the UI. ``prefect block register -m repli.blocks`` makes them known.

Each turns into plain values at the edge of a flow; tasks see only those. `repli.flows.config.resolve` says which of
them a run uses.
"""

from repli.blocks.cluster import Cluster
from repli.blocks.enrichment_policy import EnrichmentPolicy
from repli.blocks.item_store import ItemStore

__all__ = ["Cluster", "EnrichmentPolicy", "ItemStore"]
