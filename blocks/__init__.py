"""Prefect blocks: what a person configures in the UI."""
