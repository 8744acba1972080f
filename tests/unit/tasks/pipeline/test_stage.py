"""Declare a stage: what it becomes, and what is refused where it stands."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import repli
from repli.tasks.fallback import Chain, Status
from repli.tasks.items import Guess
from repli.tasks.pipeline import DeclarationError, Stage
from repli.tasks.settings import ModelSettings
from tests.support.own_pipeline import refusal, stage_by

WRONG_STAGES = {
    "a name with a dash": (
        """
        repli.Stage("my-stage", input=len)  # refused
        """,
        "stage 'my-stage': a name begins with a letter and has letters, digits and underscores",
    ),
    "a name of 61 letters": (
        """
        repli.Stage("s" * 61, input=len)  # refused
        """,
        f"stage '{'s' * 61}': a name has at most 60 characters",
    ),
    "no name": (
        """
        repli.Stage(None, input=len)  # refused
        """,
        "stage None: a name begins with a letter and has letters, digits and underscores",
    ),
    "an input that is no function": (
        """
        repli.Stage("s", input="name")  # refused
        """,
        "stage s: input is a str, not a function of an item",
    ),
    "a check that is no function": (
        """
        repli.Stage("s", input=len, check="not empty")  # refused
        """,
        "stage s: check is a str, not a function",
    ),
    "a query input that is no function": (
        """
        repli.Stage("s", input=len, query_input="query")  # refused
        """,
        "stage s: query_input is a str, not a function",
    ),
    "the name of a role": (
        """
        repli.Stage("s", input=len, produces="text")  # refused
        """,
        "produces='text' is no role; choose Text, Label or Embedding, or leave it out for JSON",
    ),
    "a class that is no role": (
        """
        repli.Stage("s", input=len, produces=dict)  # refused
        """,
        "produces=<class 'dict'> is no role; choose Text, Label or Embedding, or leave it out for JSON",
    ),
    "a list of roles": (
        """
        repli.Stage("s", input=len, produces=[])  # refused
        """,
        "produces=[] is no role; choose Text, Label or Embedding, or leave it out for JSON",
    ),
}
WRONG_RUNGS = {
    "no parentheses": (
        """
        @translate.rung  # refused
        def service(names): ...
        """,
        "stage translate: write @translate.rung(time_limit_s=...), with its options",
    ),
    "no time limit": (
        """
        @translate.rung()  # refused
        def service(names): ...
        """,
        "rung service: the time limit must be above 0 s and at most 30 days, not 0.0; set time_limit_s",
    ),
    "a time limit in words": (
        """
        @translate.rung(time_limit_s="30")  # refused
        def service(names): ...
        """,
        "rung service: the time limit must be above 0 s and at most 30 days, not '30'; set time_limit_s",
    ),
    "no end of time": (
        """
        @translate.rung(time_limit_s=float("inf"))  # refused
        def service(names): ...
        """,
        "rung service: the time limit must be above 0 s and at most 30 days, not inf; set time_limit_s",
    ),
    "a primary with a penalty, declared on several lines": (
        """
        @translate.rung(  # refused
            time_limit_s=30,
            penalty="0.9",
        )
        def service(names): ...
        """,
        "chain translate: the primary service must have penalty 1; leave its penalty out",
    ),
    "a penalty above 1": (
        """
        translate.rung(time_limit_s=30)(max)
        @translate.rung(time_limit_s=30, penalty="1.5")  # refused
        def service(names): ...
        """,
        "rung service: the penalty 1.5 is not in (0, 1]",
    ),
    "a penalty of 0": (
        """
        translate.rung(time_limit_s=30)(max)
        @translate.rung(time_limit_s=30, penalty="0")  # refused
        def service(names): ...
        """,
        "rung service: the penalty 0 is not in (0, 1]",
    ),
    "a penalty in words": (
        """
        translate.rung(time_limit_s=30)(max)
        @translate.rung(time_limit_s=30, penalty="low")  # refused
        def service(names): ...
        """,
        "rung service: the penalty 'low' is not a number; write it as '0.9'",
    ),
    "a penalty that rises": (
        """
        translate.rung(time_limit_s=30)(max)
        translate.rung(time_limit_s=30, penalty="0.5")(min)
        @translate.rung(time_limit_s=30, penalty="0.8")  # refused
        def service(names): ...
        """,
        "chain translate: penalties must not rise from rung to rung; order them best first",
    ),
    "the scope in place of a breaker": (
        """
        @translate.rung(time_limit_s=30, breaker="fleet")  # refused
        def service(names): ...
        """,
        "rung service: breaker is a str; write breaker=Breaker(scope=...)",
    ),
    "an async function": (
        """
        @translate.rung(time_limit_s=30)  # refused
        async def service(names): ...
        """,
        "translate.service is async; write a plain function, and call asyncio.run in it",
    ),
    "an async generator": (
        """
        @translate.rung(time_limit_s=30)  # refused
        async def service(names):
            yield names
        """,
        "translate.service is async; write a plain function, and call asyncio.run in it",
    ),
    "a generator of one item": (
        """
        @translate.rung(time_limit_s=30, per_item=True)  # refused
        def service(name):
            yield name
        """,
        "translate.service is a generator, and is called with one item; return the answer",
    ),
    "no parameter": (
        """
        @translate.rung(time_limit_s=30)  # refused
        def service(): ...
        """,
        "translate.service takes (); write (inputs) or (inputs, context)",
    ),
    "three parameters": (
        """
        @translate.rung(time_limit_s=30)  # refused
        def service(names, context, language): ...
        """,
        "translate.service takes (names, context, language); write (inputs) or (inputs, context)",
    ),
    "a required keyword": (
        """
        @translate.rung(time_limit_s=30)  # refused
        def service(names, *, language): ...
        """,
        "translate.service takes (names, *, language); write (inputs) or (inputs, context)",
    ),
    "a lambda": (
        """
        translate.rung(time_limit_s=30)(lambda names: names)  # refused
        """,
        "rung of translate '<lambda>': a name begins with a letter and has letters, digits and underscores",
    ),
    "a partial": (
        """
        from functools import partial
        translate.rung(time_limit_s=30)(partial(max, 1))  # refused
        """,
        "rung of translate: a partial has no name; write a function with def",
    ),
    "a text": (
        """
        translate.rung(time_limit_s=30)("service")  # refused
        """,
        "rung of translate: a str has no name; write a function with def",
    ),
    "a name twice": (
        """
        translate.rung(time_limit_s=30)(max)
        translate.rung(time_limit_s=30)(max)  # refused
        """,
        "chain translate: two rungs share a name; rename one",
    ),
    "the name of skip": (
        """
        @translate.rung(time_limit_s=30)  # refused
        def skip(names): ...
        """,
        "a rung cannot be named 'skip'; end the chain with Skip(penalty=...)",
    ),
    "a rung after skip": (
        """
        translate.rung(time_limit_s=30)(max)
        translate.skip(penalty="0.7")
        translate.rung(time_limit_s=30, penalty="0.7")(min)  # refused
        """,
        "chain translate: Skip can only be the last rung; move it to the end, once",
    ),
    "skip first": (
        """
        translate.skip(penalty="0.7")  # refused
        """,
        "stage translate: declare at least one rung before skip",
    ),
    "skip twice": (
        """
        translate.rung(time_limit_s=30)(max)
        translate.skip(penalty="0.7")
        translate.skip(penalty="0.7")  # refused
        """,
        "chain translate: Skip can only be the last rung; move it to the end, once",
    ),
    "a skip for nothing": (
        """
        translate.rung(time_limit_s=30)(max)
        translate.skip(penalty="0")  # refused
        """,
        "skip: the penalty 0 is not in (0, 1]",
    ),
    "no rung, tried": (
        """
        translate.try_on(["cat"])  # refused
        """,
        "stage translate has no rung; add one with @translate.rung(time_limit_s=...)",
    ),
    "a rung once the stage is in a pipeline": (
        """
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline([translate])
        translate.rung(time_limit_s=30, penalty="0.5")(min)  # refused
        """,
        "stage translate is in a pipeline already; declare its rungs before the pipeline",
    ),
    "skip once the stage is in a pipeline": (
        """
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline([translate])
        translate.skip(penalty="0.5")  # refused
        """,
        "stage translate is in a pipeline already; declare its rungs before the pipeline",
    ),
}


@pytest.mark.parametrize("name", WRONG_STAGES)
def test_a_wrong_stage_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    """The message has the file and the line, and says what to write."""
    source, reason = WRONG_STAGES[name]
    assert refusal(tmp_path, source) == reason


@pytest.mark.parametrize("name", WRONG_RUNGS)
def test_a_wrong_rung_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    """The message has the file and the line of the decorator, and says what to write."""
    source, reason = WRONG_RUNGS[name]
    assert refusal(tmp_path, source) == reason


def test_the_file_of_a_refusal_is_named_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file below the folder in which the command was started has a short path."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "stages" / "own.py"
    with pytest.raises(DeclarationError, match=re.escape("stages/own.py, line 2: stage 'a b'")):
        exec(compile("import repli\nrepli.Stage('a b', input=len)", path, "exec"), {})


def test_a_refused_rung_is_not_added() -> None:
    """After the correction in a notebook, the stage has the rungs that were accepted and no other."""
    stage = stage_by("s", skip=None)

    def late(names: list[str]) -> list[str]:
        return names

    with pytest.raises(DeclarationError):
        stage.rung(time_limit_s=5, penalty="1.5")(late)
    stage.rung(time_limit_s=5, penalty="0.5")(late)
    stage.skip(penalty="0.4")
    assert stage.chain.rung_names == ("only", "late", "skip")


def test_a_stage_is_a_chain_of_its_rungs() -> None:
    """Best first, each with its options and its docstring; the penalties are exact."""
    stage = Stage("s", input=len)
    breaker = repli.Breaker(scope="fleet", failures=2)

    @stage.rung(time_limit_s=30, breaker=breaker, resources={"GPU": 1})
    def service(names: list[str]) -> list[str]:
        """Ask the service."""
        return names

    @stage.rung(penalty="0.10", time_limit_s=5, per_item=True)
    def table(name: str) -> str:
        return name

    assert stage.chain.is_required
    stage.skip(penalty="0.1")
    chain = stage.chain
    assert (chain.stage, chain.rung_names, chain.is_required) == ("s", ("service", "table", "skip"), False)
    first, second = chain.rungs
    assert (first.time_limit_s, first.breaker, first.resources, first.per_item) == (30, breaker, {"GPU": 1}, False)
    assert (second.factor, second.per_item, second.resources) == (Decimal("0.10"), True, {})
    assert first.run.__doc__ == "Ask the service."
    assert repr(stage) == "Stage('s': service · table · skip)"
    assert repr(Stage("s", input=len)) == "Stage('s': no rung)"


def test_a_penalty_may_be_a_number() -> None:
    """It is taken as it is written, so that the product of penalties stays exact."""
    stage = stage_by("s", skip=None)
    stage.rung(time_limit_s=5, penalty=0.8)(max)  # type: ignore[arg-type]
    stage.skip(penalty=0.7)  # type: ignore[arg-type]
    assert [rung.factor for rung in stage.chain.rungs] == [Decimal(1), Decimal("0.8")]
    assert stage.chain.skip
    assert stage.chain.skip.factor == Decimal("0.7")


def test_a_rung_has_a_version() -> None:
    """A number or a text; the first one where it says none."""
    stage = Stage("s", input=len)
    stage.rung(time_limit_s=5)(max)
    stage.rung(time_limit_s=5, version=2)(min)
    stage.rung(time_limit_s=5, version="glossary of May")(len)
    versions = [stage.version_of(name, ModelSettings()) for name in ("max", "min", "len")]
    assert versions == ["1", "2", "glossary of May"]
    for wrong in ("", " ", "a\nb", "x" * 201):
        with pytest.raises(DeclarationError, match="the version must be a number or a line of at most 200"):
            stage.rung(time_limit_s=5, version=wrong)(sorted)


def test_the_decorated_function_is_unchanged() -> None:
    """It can be called in a test of its own."""
    stage = Stage("s", input=len)

    def service(names: list[str]) -> list[str]:
        return [name.upper() for name in names]

    assert stage.rung(time_limit_s=5)(service) is service
    assert service(["cat"]) == ["CAT"]


def test_a_copy_has_another_chain() -> None:
    """A policy's chain leaves the declared stage as it was."""
    stage = stage_by("s")
    shorter = stage.with_chain(Chain("s", *stage.chain.rungs))
    assert (shorter.chain.rung_names, stage.chain.rung_names) == (("only",), ("only", "skip"))


class TestCheck:
    """A value goes through the check of the role and the stage's own."""

    @staticmethod
    def reason(check: Any, value: Any, **options: Any) -> str:
        """Why a value is not served; '' where it is."""
        [result] = stage_by("s", lambda name: value, check=check, **options).try_on(["cat"])
        assert (result.status is Status.SUCCEEDED) == (result.error is None)
        return result.error.line if result.error else ""

    def test_its_reason_is_the_items(self) -> None:
        """A ValueError of the check is why the item is not served."""

        def short(value: str) -> None:
            if len(value) > 3:
                raise ValueError("more than 3 letters")

        assert self.reason(short, "chat") == "BadAnswer: s.only: more than 3 letters"
        assert self.reason(short, "cat") == ""

    def test_a_check_that_breaks_serves_nothing(self) -> None:
        """The reason says that it was the check that raised."""
        assert self.reason(lambda value: value["text"], {}) == "BadAnswer: s.only: its check raised KeyError: 'text'"

    def test_a_check_that_returns_false_serves_nothing(self) -> None:
        """A check that was written as a question would otherwise let everything pass."""
        expected = "BadAnswer: s.only: its check returned False; raise ValueError with the reason"
        assert self.reason(lambda value: len(value) > 3, "cat") == expected
        assert self.reason(lambda value: len(value) > 3, "chat") == ""

    def test_a_value_that_breaks_the_check_of_its_role_serves_nothing(self) -> None:
        """The item goes on, and so does the batch."""
        guess = repli.Label("cat", top=({"label": "cat"},))  # type: ignore[arg-type]
        assert "are not each a Guess" in self.reason(None, guess, produces=repli.Label)
        wrong = Guess(label="cat", label_index=None, confidence="0.5")  # type: ignore[arg-type]
        expected = "BadAnswer: s.only: its check raised TypeError: "
        assert self.reason(None, repli.Label("cat", top=(wrong,)), produces=repli.Label).startswith(expected)

    def test_the_role_is_checked_first(self) -> None:
        """The stage's own check sees only values of the role."""
        seen: list[Any] = []
        assert "no visible character" in self.reason(seen.append, " ", produces=repli.Text)
        assert self.reason(seen.append, "chat", produces=repli.Text) == ""
        assert seen == [repli.Text("chat")]
