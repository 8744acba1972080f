"""Run configuration: form parameters and command-line options, checked and turned into settings."""
