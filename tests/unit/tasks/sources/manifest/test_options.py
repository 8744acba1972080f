"""The options to read a manifest with: what is taken, what is refused, and what a run's record keeps of them."""

from __future__ import annotations

import json

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest import ManifestOptions


def test_they_are_parsed_as_the_command_line_gives_them() -> None:
    """A field's case does not matter, a column's does; a column may have an equals sign; tab has a name."""
    options = ManifestOptions.parse(["Name= a=b", "id=SKU"], delimiter="tab", encoding="Windows-1252", folder="/f")
    assert options == ManifestOptions(
        columns={"name": " a=b", "id": "SKU"}, delimiter="\t", encoding="cp1252", folder="/f"
    )


def test_nothing_given_is_the_default() -> None:
    """A form gives empty texts."""
    assert ManifestOptions.parse([], delimiter="", encoding="", folder="") == ManifestOptions()
    assert ManifestOptions().is_default
    assert not ManifestOptions.parse(encoding="utf-8").is_default


@pytest.mark.parametrize(
    ("columns", "others", "message"),
    [
        (["name"], {}, "--column 'name' is not of the form FIELD=COLUMN, such as name=title"),
        (["name= "], {}, "is not of the form FIELD=COLUMN"),
        (["title=Name"], {}, "there is no field 'title'; choose from id, name, document, text, image"),
        (["name=a", "name=b"], {}, "name is the column 'a' already; choose one"),
        ([], {"delimiter": ";;"}, "--delimiter ';;': give one character, such as ';', or tab"),
        ([], {"delimiter": '"'}, "give one character"),
        ([], {"encoding": "klingon"}, "--encoding 'klingon': Python knows no such encoding"),
        ([], {"encoding": "base64"}, "--encoding 'base64': Python knows no such encoding"),
    ],
)
def test_what_cannot_be_used_is_refused(columns: list[str], others: dict[str, str], message: str) -> None:
    """The message names the option and what to give."""
    with pytest.raises(UsageError) as refused:
        ManifestOptions.parse(columns, **others)
    assert message in str(refused.value)


def test_a_runs_record_keeps_them() -> None:
    """As JSON, for the next run of the source; the folder is the command's own."""
    options = ManifestOptions.parse(["name=Title", "id=Nr=1"], delimiter=";", encoding="utf-16", folder="/f")
    record = json.loads(json.dumps({"limit": None, **options.as_options()}))
    assert ManifestOptions.from_run(record) == ManifestOptions.parse(
        ["name=Title", "id=Nr=1"], delimiter=";", encoding="utf-16"
    )
    assert ManifestOptions.from_run({"limit": 3}) == ManifestOptions()
