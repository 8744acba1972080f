"""`repli demo`: a catalogue of real items, and a GPU outage in three acts."""
