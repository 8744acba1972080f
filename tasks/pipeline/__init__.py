"""Pipelines: stages in their order, each a chain of rungs with an input, and the rules between them.

Read in this order: `stage` (declare a stage), `rung_functions` (a plain function as a rung), `roles` (what a stage
produces), `pipeline` (stages and rules), `registry` (find a pipeline by its name), `trial` (try a stage on its own).
"""

from repli.tasks.pipeline.context import StageContext
from repli.tasks.pipeline.declaration import DeclarationError
from repli.tasks.pipeline.enriched_item import EnrichedItem
from repli.tasks.pipeline.pipeline import Pipeline
from repli.tasks.pipeline.stage import Stage, StageHooks

__all__ = ["DeclarationError", "EnrichedItem", "Pipeline", "Stage", "StageContext", "StageHooks"]
