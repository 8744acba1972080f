"""Importing, in a worker, what every run needs: seconds that pass while the server still starts."""

from __future__ import annotations

from repli.tasks.settings import Settings


def warm_up(settings: Settings) -> None:
    """Load the suite and the models of the processor, in the order of their need.

    What cannot be loaded is left alone here: the rung that needs it says so, item by item.
    """
    import repli.tasks.execution.stage_task  # noqa: F401  Prefect, which every task needs
    from repli.tasks.fallback import RungError
    from repli.tasks.models import image_classifier, text_embedder
    from repli.tasks.stages import validate

    try:
        validate.load_suite()
        image_classifier.load(settings.models.image_cpu, "cpu")
        text_embedder.load(settings.models.text)
    except RungError:
        return
