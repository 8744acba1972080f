"""Dispatch: which batch goes to which worker, what happens when a worker dies, and when to stop retrying."""
