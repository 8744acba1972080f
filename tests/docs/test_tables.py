"""The README and the pages of `docs` say what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import repli
from repli.tasks.fallback import SKIP, Position, Rule, Rules, Status
from repli.tasks.fallback.breaker import MOVES, Cause
from repli.tasks.fallback.faults import FaultKind
from repli.tasks.reporting import events
from repli.tasks.stages.rates import RATES
from repli.tasks.stages.rules import RULES
from repli.tasks.storage.breakers import Key, Move
from tests.docs.pages import PAGES, README, read
from tests.support import ROOT
from tests.support.default_pipeline import CHAINS


def test_the_chain_table_is_the_code() -> None:
    """Every stage, rung and penalty of the tables is that of the chains, in their order."""
    rows = []
    for chain in CHAINS:
        rungs = [f"`{rung.name}` {rung.factor:g}" for rung in chain.rungs]
        if chain.skip:
            rungs.append(f"`{SKIP}` {chain.skip.factor:g}")
        rows.append(f"| `{chain.stage}` | {' · '.join(rungs)} |")
    for text in (README.read_text(encoding="utf-8"), read("concepts/chains-and-statuses.md")):
        assert "| stage | rungs |\n|---|---|\n" + "\n".join(rows) in text


def test_the_table_of_rates_is_the_code() -> None:
    """Every rate with its interval and source, in the order of the code."""
    rows = []
    for rung, rate in RATES.items():
        interval = f" ({rate.interval[0]:g} to {rate.interval[1]:g})" if rate.interval else ""
        rows.append(f"| `{rung}` | {rate.value:g}{interval} | {rate.source} |")
    assert "| rung | rate (95 % interval) | measured on |\n|---|---|---|\n" + "\n".join(rows) in read(
        "concepts/quality.md"
    )


def test_the_table_of_rules_is_the_code() -> None:
    """Every rule of the table is one of the code's, in their order."""
    rows = [
        f"| `{rule.stage}` by {' or '.join(f'`{rung}`' for rung in sorted(rule.rungs))} "
        f"| `{rule.forbids}` | {rule.because} |"
        for rule in RULES
    ]
    assert "| if | then never | because |\n|---|---|---|\n" + "\n".join(rows) in read("concepts/rules.md")


def test_the_example_rule_is_accepted() -> None:
    """The rule that the page shows can stand among the others."""
    source = re.search(r"```python\n(Rule\(.*?)```", read("concepts/rules.md"), re.DOTALL)
    assert source
    rule = eval(source[1], {"Rule": Rule})
    assert Rules(CHAINS, *RULES, rule).forbidden_rungs("embed_text", {"fetch": "cached"}) == {"text_and_label": rule}


def test_the_diagram_is_the_table_of_moves() -> None:
    """The diagram of the breakers has every move of the code, and no other."""
    assert f"```mermaid\n{diagram()}\n```" in read("concepts/breakers.md")


def diagram() -> str:
    """The table of moves, as Mermaid draws it. What happens from every position is drawn once."""
    lines = ["stateDiagram-v2", f"    [*] --> {Position.CLOSED}"]
    for (position, cause), new in MOVES.items():
        if all((other, cause) in MOVES for other in Position):
            lines.append(f"    any --> {new}: {cause}")
        else:
            lines.append(f"    {position} --> {new}: {cause}")
    return "\n".join(dict.fromkeys(lines))


def test_every_status_is_explained() -> None:
    """The table of statuses has the six of the code."""
    rows = re.findall(r"^\| `(\w+)` \| (?!`)", read("concepts/chains-and-statuses.md"), re.MULTILINE)
    assert rows == [str(status) for status in Status]


def test_the_table_of_events_is_the_code() -> None:
    """Every event that is sent is in the table, and no other; what a breaker's says is what the table says."""
    sent = {
        *events.BREAKER_EVENTS.values(),
        events.RUN_DEGRADED,
        events.DRILL_PASSED,
        events.DRILL_FAILED,
        events.PENALTY_PROPOSED,
    }
    rows = dict(re.findall(r"^\| `(repli\.\w+\.\w+)` \|.*\| (.*) \|$", read("reference/events.md"), re.MULTILINE))
    assert rows.keys() == sent
    now, old, new = datetime.now(UTC), Position.CLOSED, Position.FORCED_OPEN
    move = Move(key=Key("a.b"), number=1, at=now, old=old, new=new, cause=Cause.FORCED_OPEN, why="")
    assert re.findall(r"`(\w+)`", rows["repli.breaker.opened"]) == list(events.breaker_payload(move))


def test_every_variable_is_one_that_is_read() -> None:
    """The page of the configuration names the variables that the code reads, and no page another one."""
    read_by_code = {
        name
        for folder in ("flows", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'"(REPLI_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
    assert variables(read("reference/configuration.md")) == read_by_code
    for page in (README, *PAGES):
        assert variables(page.read_text(encoding="utf-8")) <= read_by_code, page


def variables(text: str) -> set[str]:
    return set(re.findall(r"`(REPLI_[A-Z_]+)`", text))


def test_the_table_of_faults_is_the_code() -> None:
    """Every kind of fault, in the order of the code."""
    rows = re.findall(r"^\| `(\w+)` \|", read("how-to/inject-faults.md"), re.MULTILINE)
    assert rows == [str(kind) for kind in FaultKind]


def test_the_table_of_python_names_is_the_code() -> None:
    """Every name that `import repli` has, once."""
    table = re.findall(r"^\| (`.*?) \|", read("reference/python-api.md"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(repli.__all__)


def test_the_page_of_the_command_line_is_the_code() -> None:
    """It is what Typer writes of the commands; `make docs` writes it again."""
    arguments = ["repli.flows.cli.app", "utils", "docs", "--name", "repli", "--title", "Command line"]
    made = subprocess.run([sys.executable, "-m", "typer", *arguments], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == read("reference/cli.md").strip()


def test_the_example_program_works(tmp_path: Path) -> None:
    """The program that the README and the tutorial show prints what they say."""
    shown = set()
    for text in (README.read_text(encoding="utf-8"), read("tutorials/your-own-stage.md")):
        source = re.search(r"```python\n(# translate\.py\n.*?)```", text, re.DOTALL)
        printed = re.search(r"```console\n\$ python translate\.py\n(.*?)(?:\$ repli run|```)", text, re.DOTALL)
        assert source
        assert printed
        shown.add((source[1], printed[1]))
    [(program, output)] = shown
    (tmp_path / "translate.py").write_text(program)
    done = subprocess.run([sys.executable, "translate.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == output
