"""The six default stages, one module each. `default` gives their order, `rules` the incompatible rungs."""
