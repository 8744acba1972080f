"""The six stages that come with Repli, a module each. `default` is their order, `rules` what does not go together."""
