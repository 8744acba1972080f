"""The page of errors shows the messages as the code says them."""

from __future__ import annotations

import ast
import re
import socket

import pytest

from repli.flows.server.ports import LOOPBACK, check_port_is_free
from repli.tasks.fallback import RepliError
from tests.docs.pages import read
from tests.support import ROOT

PAGE = read("reference/errors.md")
MESSAGES = [match[2].strip() for match in re.finditer(r"^\| (`+)(?!`)(.+?)(?<!`)\1(?!`) \|", PAGE, re.MULTILINE)]
LEAST = 10
"""Letters that a message of the code must have beside its values, to be one that can be told from others."""


def said_by_the_code() -> list[re.Pattern[str]]:
    """Every text in the code, with anything in the place of its values."""
    found = set()
    for folder in ("flows", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [one.value if isinstance(one, ast.Constant) else None for one in node.values]
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts = [node.value]
                else:
                    continue
                if sum(len(re.findall(r"\w", str(part))) for part in parts if part is not None) >= LEAST:
                    found.add("".join(".*" if part is None else re.escape(str(part)) for part in parts))
    return [re.compile(pattern) for pattern in found]


def test_every_message_is_one_of_the_code() -> None:
    """Each message of the page is what the code says, with values in their places."""
    said = said_by_the_code()
    assert len(MESSAGES) > 30
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RepliError) as raised:
            check_port_is_free(port, "choose another with --port")
    of_port = str(raised.value).replace(str(port), "4200")
    assert of_port in MESSAGES
    unknown = [one for one in MESSAGES if one != of_port and not any(pattern.fullmatch(one) for pattern in said)]
    assert not unknown
