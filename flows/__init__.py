"""The flows, where they run, and the command line."""
