"""`repli demo`: a real catalogue, and the night of the outage in three acts."""
