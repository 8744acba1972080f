"""The rungs that are incompatible, each with the reason. To add a rule, add one entry."""

from __future__ import annotations

from repli.tasks.fallback import Rule

RULES = (
    Rule(
        "classify_image",
        {"rules", "skip"},
        forbids="embed_text.text_and_label",
        because="a guessed label would poison the vector",
    ),
    Rule(
        "extract_text",
        {"name_only", "skip"},
        forbids="embed_text.hashed",
        because="a hash of a bare name only repeats the keyword index",
    ),
)
