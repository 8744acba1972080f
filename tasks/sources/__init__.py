"""Read manifests, and the documents and images that they declare."""
