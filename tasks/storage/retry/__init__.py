"""The retry queue: what waits, who has claimed it, and what came of earlier tries."""
