"""Prefect blocks: what a person configures in the UI. ``prefect block register -m blocks`` makes them known.

Each turns into plain values at the edge of a flow; tasks see only those. `flows.configuration` says which of them a run
goes by.
"""

from blocks.cluster import Cluster
from blocks.enrichment_policy import EnrichmentPolicy
from blocks.item_store import ItemStore

__all__ = ["Cluster", "EnrichmentPolicy", "ItemStore"]
