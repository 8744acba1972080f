"""Read manifests, and the documents and pictures that they name."""
