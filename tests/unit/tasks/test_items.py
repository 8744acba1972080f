"""Stage values: which vectors may be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from repli.tasks.fallback import AttemptOutcome
from repli.tasks.items import Embedding, Item
from repli.tasks.pipeline.roles import check_embedding as check
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import step_results
from tests.support.files import png
from tests.support.in_process import enrich


def vector(*numbers: float, space: str = "model:1:whole-l2") -> Embedding:
    return Embedding(space=space, vector=np.asarray(numbers, np.float32))


class TestRecords:
    """What the store keeps of an item, and by what it sees a change."""

    OLD = Item(id="a", name="A lamp", document="a.html", attributes={"price": 3}, folder="/f", repaired=("x",))

    def test_a_record_of_an_older_version_is_unchanged(self) -> None:
        """A new field that is empty is no change: nothing that is stored is computed again for it."""
        assert self.OLD.record == {
            "name": "A lamp",
            "document": "a.html",
            "image": None,
            "attributes": {"price": 3},
            "folder": "/f",
            "repaired": ("x",),
            "problem": None,
        }
        assert self.OLD.fingerprint == "dc8d80edbe3b91c907068f9f304b1335e05ad456bcb94c1c8c29de091ce74c6b"

    def test_a_text_and_contents_are_a_change(self) -> None:
        """The bytes themselves are no part of the record, their hash is."""
        text = replace(self.OLD, text="t")
        image = replace(self.OLD, image="inline:00", inline=("image",), contents={"image": b"1"})
        assert len({item.fingerprint for item in (self.OLD, text, image)}) == 3
        assert image.fingerprint == replace(image, contents={}).fingerprint
        assert "contents" not in image.record


class TestSpaces:
    """A vector lives in a space, and nothing is nearer or farther outside of it."""

    def test_the_cosine_of_two_vectors(self) -> None:
        """1 for the same direction, 0 for none in common, -1 for the opposite."""
        assert vector(0.6, 0.8).similarity(vector(0.6, 0.8)) == pytest.approx(1)
        assert vector(1, 0).similarity(vector(0, 1)) == 0
        assert vector(1, 0).similarity(vector(-0.6, 0.8)) == pytest.approx(-0.6)
        assert isinstance(vector(1, 0).similarity(vector(1, 0)), float)

    @pytest.mark.parametrize(
        "other", ["model:2:whole-l2", "model:1:half-l2", "other:1:whole-l2", "", "MODEL:1:whole-l2"]
    )
    def test_vectors_of_two_spaces_are_not_compared(self, other: str) -> None:
        """Another model, other weights, another preparation: no number says how near they are, and none is given."""
        one, two = vector(1, 0), vector(1, 0, space=other)
        with pytest.raises(ValueError, match=f"a vector of model:1:whole-l2 cannot be compared with one of {other}"):
            one.similarity(two)
        with pytest.raises(ValueError, match="cannot be compared with one of model:1:whole-l2"):
            two.similarity(one)

    def test_a_vector_without_a_space_is_refused(self) -> None:
        """It would be compared with all others that have none."""
        check(vector(1, 0))
        with pytest.raises(ValueError, match="space has no name"):
            check(vector(1, 0, space=""))

    def test_every_vector_in_the_store_names_its_space(self, settings: Settings, tmp_path: Path) -> None:
        """Model, revision and preparation, whichever rung made it; vectors of one space are of one length."""
        (tmp_path / "lamp.png").write_bytes(png())
        lines = [
            {"id": "no image", "name": "A lamp", "document": "A lamp that is made of brass."},
            {"id": "image", "name": "A lamp", "document": "A lamp that is made of brass.", "image": "lamp.png"},
            {"id": "lost text", "name": "A lamp", "document": "nowhere.txt"},
        ]
        (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        by_model = enrich(settings, tmp_path / "items.jsonl", forced={"classify_image": "rules"})
        assert {id_: view.stages["embed_text"].rung for id_, view in by_model.items()} == {
            "no image": "text_and_label",
            "image": "text_only",  # the label is a guess
            "lost text": "text_and_label",
        }
        for line in lines:
            line["id"] += ", hashed"
        (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        by_words = enrich(settings, tmp_path / "more.jsonl")
        assert {id_: view.stages["embed_text"].rung for id_, view in by_words.items()} == {
            "no image, hashed": "hashed",
            "image, hashed": "hashed",
            "lost text, hashed": "skip",  # a hash of a bare name only repeats the keyword index
        }
        barred = by_words["lost text, hashed"].stages["embed_text"].attempts[2]
        assert (barred.rung, barred.outcome) == ("hashed", AttemptOutcome.INCOMPATIBLE)
        with Database(settings.database_url).read() as connection:
            rows = connection.execute(
                sa.select(step_results.c.value, step_results.c.vector).where(step_results.c.vector.is_not(None))
            ).all()
        assert len(rows) == 5
        lengths: dict[str, set[int]] = {}
        for value, content in rows:
            model, revision, preparation = value["space"].split(":")
            assert all((model, revision, preparation))
            lengths.setdefault(value["space"], set()).add(len(np.frombuffer(content, np.float32)))
        assert sorted(map(len, lengths.values())) == [1, 1]
