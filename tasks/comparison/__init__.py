"""Compare the answers of rungs: agreement, and perturbed inputs that reveal mistakes."""
