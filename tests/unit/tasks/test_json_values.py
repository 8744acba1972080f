"""The fingerprint of stage inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.items import Item
from repli.tasks.json_values import fingerprint
from tests.support import ROOT


@dataclass(frozen=True)
class Passage:
    """A stage's input."""

    name: str
    parts: tuple[Any, ...]
    weight: Decimal
    by: Mapping[str, Any]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class TestFingerprint:
    """A stage's input, told from another."""

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(json_values, json_values)
    def test_two_inputs_are_the_same_where_their_json_is(self, one: Any, other: Any) -> None:
        """Neither the order of keys nor the process matters, and nothing that differs is taken for the same."""
        is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
        assert (fingerprint(one) == fingerprint(other)) is is_same
        assert fingerprint([one, {"b": 1, "a": other}]) == fingerprint([one, {"a": other, "b": 1}])
        assert fingerprint(one) is not None

    def test_every_part_of_an_input_counts(self) -> None:
        """Fields of a dataclass at any depth, the last digit of a decimal, None and absence."""
        whole = Passage("a", (Item(id="a"), None), Decimal("0.90"), {"x": 1})
        different = [
            Passage("b", (Item(id="a"), None), Decimal("0.90"), {"x": 1}),
            Passage("a", (Item(id="b"), None), Decimal("0.90"), {"x": 1}),
            Passage("a", (Item(id="a"),), Decimal("0.90"), {"x": 1}),
            Passage("a", (Item(id="a"), None), Decimal("0.91"), {"x": 1}),
            Passage("a", (Item(id="a"), None), Decimal("0.90"), {"x": None}),
            None,
        ]
        prints = [fingerprint(one) for one in (whole, *different)]
        assert len(set(prints)) == len(prints)
        assert fingerprint(Passage("a", (Item(id="a"), None), Decimal("0.90"), {"x": 1})) == prints[0]

    def test_what_has_no_form_has_none(self) -> None:
        """A stage of one's own may take anything: then nothing is known of what changed."""
        assert fingerprint(object()) is None
        assert fingerprint({"a": {1, 2}}) is None
        assert fingerprint(np.zeros(2)) is None
        loop: list[Any] = []
        loop.append(loop)
        assert fingerprint(loop) is None

    def test_it_is_the_same_in_every_process(self) -> None:
        """A worker compares its own with what another has left."""
        code = (
            "from repli.tasks.items import Item\n"
            "from repli.tasks.json_values import fingerprint\n"
            "print(fingerprint({'b': Item(id='a', attributes={'y': 1, 'x': 'ä'}), 'a': None}))"
        )
        environment = {"PYTHONHASHSEED": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == fingerprint({"a": None, "b": Item(id="a", attributes={"x": "ä", "y": 1})})
