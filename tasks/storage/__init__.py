"""The store: items, step results, runs, and fetched bytes."""
