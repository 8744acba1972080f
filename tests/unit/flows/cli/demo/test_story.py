"""The last lines that `repli demo` prints: commands to paste."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repli.flows.cli.demo.story import Story

BIN = Path(sys.executable).parent


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    """A demo on a home under the working directory, as `make demo` starts it: `repli` is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    home = tmp_path / ".repli" / "demo"
    report: Any = SimpleNamespace(lowest=[SimpleNamespace(id="dung-beetle")])
    return Story(
        home=home,
        catalogue=home / "demo" / "catalogue" / "catalogue.jsonl",
        healthy=report,
        outage=report,
        recovery=report,
        databases={"healthy": f"sqlite:///{home}/demo/healthy.db", "outage": f"sqlite:///{home}/demo/outage.db"},
        problem=None,
    )


def commands(story: Story) -> list[str]:
    return [line for line in story.next_steps().splitlines() if line.startswith("  ")]


def test_the_commands_can_be_pasted(story: Story) -> None:
    """They put `repli` on the path of a shell that has it not, and name the demo's store, catalogue and an item."""
    activate, home, database, *rest = commands(story)
    assert activate == f"  source {BIN / 'activate'}"
    setup = "\n".join([activate, home, database, "command -v repli", 'echo "$REPLI_HOME $REPLI_DATABASE_URL"'])
    done = subprocess.run(["bash", "-c", setup], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        str(BIN / "repli"),
        ".repli/demo sqlite:///.repli/demo/demo/outage.db",
    ]
    assert [line.strip() for line in rest] == [
        "repli show dung-beetle",
        "repli status",
        'repli run "$REPLI_HOME/demo/catalogue/catalogue.jsonl"',
        "repli serve",
    ]


def test_no_line_is_wider_than_a_terminal(story: Story) -> None:
    """A folded line could not be pasted. The path of the environment is the test machine's own."""
    assert all(len(line) <= 80 for line in story.next_steps().splitlines() if str(BIN) not in line)


def test_an_active_environment_is_not_activated_again(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `repli` on the path the first command names the demo's home."""
    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin")
    assert commands(story)[0] == "  export REPLI_HOME=.repli/demo"
