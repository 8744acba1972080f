"""Pipelines: stages in their order, each a chain with an input, and the rules between them."""

from repli.tasks.pipeline.pipeline import AnyStage, Pipeline, Stage, StageContext, quality_so_far

__all__ = ["AnyStage", "Pipeline", "Stage", "StageContext", "quality_so_far"]
