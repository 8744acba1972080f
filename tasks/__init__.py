"""The engine, the stages, the models and the store.

`fallback` is the engine, and needs nothing else. `items` are what flows through it, `pipeline` and `stages` declare
what is done to them, `execution` runs a stage over a batch, `storage` keeps the results, `sources` reads manifests and
assets, `models` are loaded lazily, `comparison` and `drill` measure rungs, `reporting` tells people and machines.
"""
