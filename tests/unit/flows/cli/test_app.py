"""The command line without a store: help, version, completion, and usage errors."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest

from repli.flows.cli.app import main

COMMANDS = [
    (),
    *(
        (name,)
        for name in ("run", "reprocess", "drill", "label", "status", "show", "search", "export", "serve", "dashboard")
    ),
    ("demo",),
    ("breakers",),
    *(("breakers", name) for name in ("open", "close", "reset")),
    ("queue",),
    ("queue", "retry"),
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Call the entry point with arguments; return its exit status, its stdout and its stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    handler = signal.getsignal(signal.SIGINT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["repli", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return status, re.sub(r"\x1b\[[\d;]*m", "", out), err

    yield run
    signal.signal(signal.SIGINT, handler)  # a command ends its process, and leaves Ctrl-C ignored


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(repli: Run, command: tuple[str, ...]) -> None:
    """Sub-commands too. It names its usage and fits a terminal of 80 columns."""
    status, out, err = repli(*command, "--help")
    assert (status, err) == (0, "")
    assert " ".join(["Usage: repli", *command, "[OPTIONS]"]) in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("breakers",), "List circuit breakers; `open`, `close` and `reset` override one."),
        (("breakers", "open"), "Force a breaker open"),
        (("breakers", "close"), "Force a breaker closed"),
        (("breakers", "reset"), "Remove the override of a breaker"),
        (("queue",), "List the retry queue"),
        (("queue", "retry"), "Queue items with priority HIGH"),
    ],
)
def test_help_says_what_a_command_does(repli: Run, command: tuple[str, ...], told: str) -> None:
    """The first sentence stands in the command's own help, and in the list of the group above it."""
    for arguments in ((*command, "--help"), (*command[:-1], "--help")):
        shown = " ".join(re.sub("[│╭╮╰╯─]", " ", repli(*arguments)[1]).split())
        assert told in shown


def test_without_a_command_the_help_is_shown(repli: Run) -> None:
    """It is a usage error without a message: the help says what to do."""
    status, out, err = repli()
    assert (status, err) == (2, "")
    assert "breakers" in out


def test_the_version_is_that_of_the_installed_package(repli: Run) -> None:
    """`--version` comes before all else, and needs no command."""
    assert repli("--version") == (0, f"repli {version('repli')}\n", "")


def test_the_version_is_read_only_when_asked_for() -> None:
    """Reading it parses the metadata of installed packages, which every command would pay for."""
    code = "import sys, repli.flows.cli.app; print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_module_can_be_run() -> None:
    """`python -m repli` is the same command line."""
    done = subprocess.run([sys.executable, "-m", "repli", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"repli {version('repli')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--frob",), "no such option: --frob; see `repli --help`"),
        (
            ("runn", "x"),
            "`repli` has no command 'runn'; choose from run, reprocess, drill, label, status, show,",
        ),
        (("run",), "missing argument 'SOURCE'; see `repli run --help`"),
        (("run", "x", "--limit", "many"), "invalid value for '--limit'"),
        (("show",), "missing argument 'ITEM_ID'; see `repli show --help`"),
        (("breakers", "smash", "a.b"), "`repli breakers` has no command 'smash'; choose from open, close, reset"),
        (("breakers", "open"), "missing argument 'NAME'; see `repli breakers open --help`"),
        (("queue", "again", "x"), "`repli queue` has no command 'again'; choose from retry"),
        (("queue", "retry"), "missing argument 'ID'; see `repli queue retry --help`"),
        (("queue", "--limit", "0"), "invalid value for '--limit'"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(repli: Run, arguments: tuple[str, ...], told: str) -> None:
    """It names the argument, option or command, and where to read on."""
    status, out, err = repli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"repli: {told}")
    assert err.count("\n") == 1


def test_a_shell_completes_sub_commands(repli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the script of `repli --install-completion` asks for them."""
    monkeypatch.setenv("_REPLI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "repli breakers ")
    monkeypatch.setenv("COMP_CWORD", "2")
    status, out, err = repli()
    assert (status, out.split(), err) == (0, ["open", "close", "reset"], "")
