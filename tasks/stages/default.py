"""The default pipeline: the six stages in their order, and the rules between them."""

from __future__ import annotations

from repli.tasks.pipeline import Pipeline, store
from repli.tasks.stages import classify_image, embed_text, extract_text, fetch, validate
from repli.tasks.stages.rules import RULES

default_pipeline = Pipeline(
    [
        fetch.STAGE,
        validate.STAGE,
        extract_text.STAGE,
        classify_image.STAGE,
        embed_text.STAGE,
        store.STAGE,
    ],
    RULES,
)
