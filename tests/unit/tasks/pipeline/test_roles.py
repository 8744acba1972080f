"""What a stage may produce: the check of each role, and what plain answers are turned into."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from repli.tasks.items import ROLES, Asset, Assets, Embedding, Guess, Label, Text
from repli.tasks.pipeline.roles import check_json, name_of, role_of

PICTURE = Asset(uri="a.png", sha256="0" * 64, size=1, media_type="image/png", source="origin")


@dataclass(frozen=True)
class Price:
    """A value of a stage of one's own."""

    euros: float
    parts: tuple[str, ...] = ()


def refused(produces: type | None, answer: Any) -> str:
    """Return why a role refuses an answer of a rung; '' where it does not."""
    role = role_of(produces)
    try:
        role.check(role.convert(answer))
    except ValueError as error:
        return str(error)
    return ""


class TestText:
    """A text that somebody can read."""

    @pytest.mark.parametrize("answer", ["a red boat", " x ", np.str_("numpy's"), Text("a red boat"), "犬"])
    def test_with_a_visible_character(self, answer: Any) -> None:
        """A string is turned into a Text."""
        assert refused(Text, answer) == ""

    @pytest.mark.parametrize(
        "answer",
        ["", " \n\t", Text(" "), Text(3), b"bytes", 3, ["a red boat"], Label("boat")],  # type: ignore[arg-type]
    )
    def test_without_one(self, answer: Any) -> None:
        """Blanks, and what is no text, are no answer."""
        assert refused(Text, answer) == "the text has no visible character"


class TestLabel:
    """A label of a set of labels."""

    @pytest.mark.parametrize(
        "answer",
        [
            "billing",
            Label("billing", label_index=2, top=(Guess(label="billing", label_index=2, confidence=1),), vocabulary="v"),
        ],
    )
    def test_a_label(self, answer: Any) -> None:
        """A string is turned into a Label."""
        assert refused(Label, answer) == ""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (7, "the answer is not a Label"),
            (Text("billing"), "the answer is not a Label"),
            (" ", "the label is not a text with a visible character; raise Declined where there is none"),
            (Label(7), "the label is not a text with a visible character; raise Declined where there is none"),  # type: ignore[arg-type]
            (Label(None), "the label is not a text with a visible character; raise Declined where there is none"),  # type: ignore[arg-type]
            (Label("b", top=("b",)), "the best guesses in `top` are not each a Guess"),  # type: ignore[arg-type]
            (Label("b", top=None), "the best guesses in `top` are not each a Guess"),  # type: ignore[arg-type]
            (
                Label("b", top=(Guess(label="b", label_index=None, confidence=1.5),)),
                "a confidence is outside [0, 1]",
            ),
            (
                Label("b", top=(Guess(label="b", label_index=None, confidence=float("nan")),)),
                "a confidence is outside [0, 1]",
            ),
        ],
    )
    def test_what_is_none(self, answer: Any, reason: str) -> None:
        """A number, blanks, and a label that contradicts itself."""
        assert refused(Label, answer) == reason


class TestEmbedding:
    """A unit vector of a named space."""

    @pytest.mark.parametrize("vector", [[0.6, 0.8], np.array([1.0]), np.array([0, 1, 0], np.int8)])
    def test_a_unit_vector(self, vector: Any) -> None:
        """Of any kind of number, as a list too; it is kept as float32."""
        assert refused(Embedding, Embedding(f"axes:{len(vector)}", vector)) == ""
        assert Embedding("axes:1", vector).vector.dtype == np.float32

    def test_a_space_has_one_number_of_dimensions(self) -> None:
        """A vector of another number cannot be compared with them; nor can a name be kept that no column takes."""
        assert refused(Embedding, Embedding("changing:1", np.array([0.6, 0.8]))) == ""
        reason = refused(Embedding, Embedding("changing:1", np.array([1.0])))
        assert reason.startswith("the vector has 1 dimensions, and others of the space changing:1 have 2")
        assert "more than 255" in refused(Embedding, Embedding("s" * 256, np.array([1.0])))

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ([0.6, 0.8], "the answer is not an Embedding"),
            (Embedding("", [0.6, 0.8]), "the space has no name, so the vector cannot be compared with others"),  # type: ignore[arg-type]
            (
                Embedding(3, [0.6, 0.8]),  # type: ignore[arg-type]
                "the space has no name, so the vector cannot be compared with others",
            ),
            (Embedding("s", [[0.6, 0.8]]), "the vector has the shape (1, 2), not one dimension"),  # type: ignore[arg-type]
            (Embedding("s", 1.0), "the vector has the shape (), not one dimension"),  # type: ignore[arg-type]
            (Embedding("s", [3, 4]), "the vector has length 5, not 1; divide it by its length"),  # type: ignore[arg-type]
            (Embedding("s", [0, 0]), "the vector has length 0, not 1; divide it by its length"),  # type: ignore[arg-type]
            (Embedding("s", []), "the vector has length 0, not 1; divide it by its length"),  # type: ignore[arg-type]
            (Embedding("s", [np.nan, 1]), "the vector has length nan, not 1; divide it by its length"),  # type: ignore[arg-type]
            (Embedding("s", [np.inf, 1]), "the vector has length inf, not 1; divide it by its length"),  # type: ignore[arg-type]
        ],
    )
    def test_what_is_none(self, answer: Any, reason: str) -> None:
        """A plain vector has no space; a vector of another length has no cosine."""
        assert refused(Embedding, answer) == reason


class TestAssets:
    """What was fetched."""

    def test_at_least_one(self) -> None:
        """A document or an image."""
        assert refused(Assets, Assets(document=None, image=PICTURE)) == ""
        assert refused(Assets, Assets(document=None, image=None)) == "the answer contains no asset"
        assert refused(Assets, "a.png") == "the answer is of type str, not Assets"


class TestAnyValue:
    """A stage that produces none of these."""

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            0,
            False,
            1.5,
            [],
            {"a": [1, None]},
            ("a", 1),
            {1: "a"},
            Price(9.5, ("a", "b")),
            Text("a"),
            np.float64(1.5),
            np.str_("a"),
        ],
        ids=lambda answer: type(answer).__name__,
    )
    def test_what_has_a_json_form(self, answer: Any) -> None:
        """Plain values, and dataclasses of them; of numpy's scalars those that are a float or a str of Python."""
        assert refused(None, answer) == ""

    @pytest.mark.parametrize(
        "answer",
        [
            float("nan"),
            {"a": [float("inf")]},
            np.float64("nan"),
            np.float32(1.5),
            np.int64(1),
            np.bool_(True),
            np.array([1.0]),
            {1, 2},
            b"a",
            Decimal(1),
            object(),
            {("a", "b"): 1},
            Price(float("nan")),
            [Price(1)],
            ValueError,
        ],
        ids=lambda answer: type(answer).__name__,
    )
    def test_what_has_none(self, answer: Any) -> None:
        """The reason says which types have one."""
        reason = refused(None, answer)
        assert reason.startswith("the answer has no JSON form (")
        assert reason.endswith("); return strings, numbers, lists and dicts")

    def test_a_number_that_the_store_would_round(self) -> None:
        """SQLite keeps 64 bits of a value that is one number. Within a list all digits stay."""
        for number in (2**63, -(10**30)):
            assert refused(None, number).startswith("the answer is a number of more than 64 bits")
        for answer in (2**63 - 1, -(2**62), [10**30]):
            check_json(answer)

    def test_what_contains_itself(self) -> None:
        """It is refused, and does not run for ever."""
        circular: list[Any] = []
        circular.append(circular)
        nested: list[Any] = []
        for _ in range(100_000):
            nested = [nested]
        for answer in (circular, nested):
            assert refused(None, answer).startswith("the answer has no JSON form (")


def test_each_role_has_the_name_that_the_store_keeps() -> None:
    """Any other value has none."""
    assert {name: name_of(role) for name, role in ROLES.items()} == {name: name for name in ROLES}
    assert name_of(None) is None


@pytest.mark.parametrize("produces", ["text", str, Text("a"), [Text], 3])
def test_nothing_else_is_a_role(produces: Any) -> None:
    """The message lists the roles."""
    with pytest.raises(ValueError, match="is no role; choose Text, Label or Embedding, or leave it out for JSON"):
        role_of(produces)
