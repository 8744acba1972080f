"""What a run was asked for: form parameters and command-line options, checked and turned into settings."""
