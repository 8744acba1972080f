"""Read-only views of the store: single items, a selection, a sample, and the stats of the dashboard."""
