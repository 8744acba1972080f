"""The store: items, step results, runs, and the bytes that were fetched."""
