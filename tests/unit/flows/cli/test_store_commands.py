"""Commands on a store: what they make of the names that an operator types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repli.flows.cli.store_commands import override_breaker
from repli.tasks.fallback import Position
from repli.tasks.fallback.breaker import MAX_KEY_CHARACTERS, Cause
from repli.tasks.settings import Settings


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("https://shop.example", "https://shop.example"),
        ("https://me:hush@shop.example", "https://***@shop.example"),
        (" two\n words ", "two words"),
    ],
)
def test_a_key_is_overridden_as_calls_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, kept: str
) -> None:
    """Else the override would be of a key that no call has, and a password would be stored and shown."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings = replace(Settings.from_environment({}), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'repli.db'}")
    views = override_breaker(settings, f"fetch.origin@{typed}", Cause.FORCED_OPEN, print)
    forced = [view.key.place for view in views if view.state.position is Position.FORCED_OPEN]
    assert forced == [kept]
    views = override_breaker(settings, f"fetch.origin@{'k' * 1000}", Cause.FORCED_OPEN, print)
    assert max(len(view.key.place) for view in views) == MAX_KEY_CHARACTERS
