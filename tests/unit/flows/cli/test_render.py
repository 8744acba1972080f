"""Pages of the command line that need no store."""

from __future__ import annotations

import pytest
from rich.console import Console

from repli.flows.cli.render import breakers_page
from repli.tasks.fallback import Breaker
from repli.tasks.fallback.breaker import BreakerState
from repli.tasks.storage.breakers import BreakerView, Key

CLOSED = BreakerView(key=Key("translate.service", "shop.example"), breaker=Breaker(scope="key"), state=BreakerState())


def shown(views: list[BreakerView], *, show_all: bool = False) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(breakers_page(views, show_all=show_all))
    return captured.get()


@pytest.mark.parametrize(
    ("views", "show_all", "expected"),
    [
        ([], False, "The pipeline declares no breaker."),
        ([CLOSED], False, "All breakers are closed. Not shown: 1 closed keys that failed lately (--all)."),
        ([CLOSED], True, "shop.example"),
    ],
)
def test_closed_keys_that_are_not_shown_are_counted(views: list[BreakerView], show_all: bool, expected: str) -> None:
    """A pipeline whose breakers are all of single keys declares some."""
    assert expected in shown(views, show_all=show_all)
