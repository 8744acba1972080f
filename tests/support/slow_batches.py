"""A pipeline of two slow stages without models: commands on it begin soon, and are long in the midst of it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from tests.support.command_line import command, environment, write_manifest

SOURCE = """
import pathlib, time
import repli

first = repli.Stage("first", input=lambda item: item.name, produces=repli.Text)
second = repli.Stage("second", input=lambda item: item.name)


@first.rung(time_limit_s=60)
def best(names: list[str]) -> list[str]:
    if pathlib.Path(__file__).with_name("down").exists():
        raise repli.Unavailable("it is down")
    time.sleep({seconds})
    return names


@first.rung(penalty="0.5", time_limit_s=60)
def poor(names: list[str]) -> list[str]:
    return names


@second.rung(time_limit_s=600)
def only(names: list[str]) -> list[str]:
    time.sleep({seconds})
    while pathlib.Path(__file__).with_name("held").exists():
        time.sleep(0.05)
    return names


pipeline = repli.Pipeline([first, second])
"""


class Slow:
    """A folder with the pipeline, a manifest of a few items, and a home.

    Args:
        seconds: how long each batch takes at each stage.
    """

    def __init__(self, folder: Path, items: int = 4, seconds: float = 5) -> None:
        self.home = folder / "home"
        self.manifest = write_manifest(folder, items, with_image=lambda number: False)
        self._down, self._held = folder / "down", folder / "held"
        (folder / "slow.py").write_text(dedent(SOURCE).replace("{seconds}", str(seconds)), encoding="utf-8")
        self._folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a command on it needs."""
        chosen = {"REPLI_PIPELINE": "slow:pipeline", "REPLI_PIPELINE_FOLDER": str(self._folder)}
        return {**environment(self.home), **chosen}

    def set_down(self, is_down: bool) -> None:
        """Let the best rung of the first stage be out of order, or in order again."""
        if is_down:
            self._down.touch()
        else:
            self._down.unlink()

    def set_held(self, is_held: bool) -> None:
        """Hold the second stage, so that no run ends before a test has disturbed it, or let it go on."""
        if is_held:
            self._held.touch()
        else:
            self._held.unlink()

    def command(self, name: str, *options: str) -> list[str]:
        """Return the command line; `run` is over the manifest."""
        return command(name, *([self.manifest] if name == "run" else []), *options)
