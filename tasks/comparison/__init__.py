"""Compare the answers of rungs: agreement, and mistakes that a rung may make."""
