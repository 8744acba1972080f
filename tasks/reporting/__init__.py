"""Reports of runs, events, and exports."""
