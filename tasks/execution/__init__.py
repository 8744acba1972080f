"""Run a stage over a batch, in a worker: checkpoints, time limits, shared breakers, and the Prefect task."""
