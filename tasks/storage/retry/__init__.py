"""The retry queue: its items, the claims on them, and the outcomes of earlier retries."""
