"""Search in the store: documents and vectors that are kept for it, and queries that fuse both."""
