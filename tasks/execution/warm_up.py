"""Load suite and models in a worker ahead of its first run, while the Prefect server still starts."""

from __future__ import annotations

from repli.tasks.settings import Settings


def warm_up(settings: Settings) -> None:
    """Load the expectation suite and the CPU models, in the order in which a run needs them.

    A model that cannot be loaded is no error here: its rung reports it for each item.
    """
    import repli.tasks.execution.stage_task  # noqa: F401  imports Prefect, which every task needs
    from repli.tasks.fallback import RungError
    from repli.tasks.models import image_classifier, text_embedder
    from repli.tasks.stages import validate

    try:
        validate.load_suite()
        image_classifier.load(settings.models.image_cpu, "cpu")
        text_embedder.load(settings.models.text)
    except RungError:
        return
