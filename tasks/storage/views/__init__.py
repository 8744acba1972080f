"""Read-only views of the store: one item, a selection, a sample, the figures of the dashboard."""
