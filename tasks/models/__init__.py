"""The models that stages use: image classifiers and text embedders."""
