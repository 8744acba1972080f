"""List and answer the questions of the latest drill for the command line."""

from __future__ import annotations

from repli.flows.cli.store_commands import existing_store
from repli.tasks.drill.labelling import OpenQuestions, give_label, questions_of_latest
from repli.tasks.execution.run_pipeline import choose
from repli.tasks.fallback import RepliError
from repli.tasks.settings import Settings
from repli.tasks.storage.labels import GivenLabel


def list_questions(settings: Settings) -> OpenQuestions:
    """Return the questions of the latest drill.

    Raises:
        RepliError: There is no store, or there was no drill.
    """
    database = existing_store(settings)
    found = questions_of_latest(database)
    if found is None:
        raise RepliError(f"there was no drill on {database}; run `repli drill`, which finds the questions")
    return found


def label(settings: Settings, item_id: str, value: str, stage: str | None) -> GivenLabel:
    """Keep the right value of a stage for an item; see `repli.tasks.drill.labelling.give_label`."""
    database = existing_store(settings)
    return give_label(database, choose(settings, database).declared, item_id, value, stage)
