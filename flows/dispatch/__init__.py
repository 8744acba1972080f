"""Dispatch of batches: routing to workers, recovery from dead workers, and the decision when to stop retrying."""
