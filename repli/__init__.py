"""Repli: a pipeline that always moves. Every stage succeeds, falls back, or skips, each at a known quality."""
