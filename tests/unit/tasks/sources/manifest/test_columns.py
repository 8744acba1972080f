"""Which column is which field: by option, by name, and what looks meant where a field is missing."""

from __future__ import annotations

import shlex
from itertools import pairwise

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest import ManifestOptions
from repli.tasks.sources.manifest.columns import choose_columns, explain_contents, unique_columns

SHOWN = "the manifest m.csv"


def chosen(*present: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    return dict(choose_columns(present, ManifestOptions.parse(options), SHOWN).by_field)


def refusal(*present: str, options: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as refused:
        chosen(*present, options=options)
    return str(refused.value)


def options_in(message: str) -> list[str]:
    """The `--column` options that a message tells people to type."""
    words = shlex.split(message.partition("give ")[2].partition("; its columns")[0])
    return [word for before, word in pairwise(words) if before == "--column"]


class TestFound:
    """What needs no option."""

    def test_a_field_is_the_column_of_its_name(self) -> None:
        """Others are attributes."""
        assert chosen("id", "name", "image", "price") == {"id": "id", "name": "name", "image": "image"}

    def test_case_and_blanks_do_not_matter(self) -> None:
        """Spreadsheets write ID, and people put blanks after commas."""
        present = "ID", " Name ", "\ufeffDocument", "TEXT"
        assert chosen(*present) == {"id": "ID", "name": " Name ", "document": "\ufeffDocument", "text": "TEXT"}

    def test_the_exact_name_goes_first(self) -> None:
        """A second column of another case is an attribute."""
        assert chosen("Id", "id", "Name", "name") == {"id": "id", "name": "name"}

    def test_two_that_are_as_good_are_not_chosen_between(self) -> None:
        """The message has both options."""
        message = refusal("id", "Name", "NAME")
        assert "2 columns that could be 'name'; choose one: --column name=Name or name=NAME" in message


class TestMapped:
    """What an option names."""

    def test_an_option_goes_before_the_name(self) -> None:
        """The column of the field's own name is an attribute then."""
        assert chosen("id", "name", "Title", options=("name=Title",)) == {"name": "Title", "id": "id"}

    def test_case_and_blanks_do_not_matter_where_they_are_clear(self) -> None:
        """What the shell took away is found."""
        assert chosen("id", " Title", options=("name=title",)) == {"name": " Title", "id": "id"}

    def test_a_column_may_be_two_fields(self) -> None:
        """A name that is unique may be the id."""
        assert chosen("name", "x", options=("id=name", "name=name")) == {"id": "name", "name": "name"}

    def test_one_that_is_not_there_is_refused(self) -> None:
        """With the columns that there are."""
        assert refusal("id", "Title", options=("name=Headline",)) == (
            "--column name=Headline: the manifest m.csv has no column 'Headline'; its columns: id, Title"
        )


class TestMissing:
    """What is refused before anything starts."""

    def test_what_looks_meant_is_suggested(self) -> None:
        """As the options to type: they are accepted."""
        present = "SKU", "Title", "url", "image_url", "Price (EUR)"
        message = refusal(*present)
        assert message.startswith(f"{SHOWN} has no column 'id' and no column 'name'; its columns: {', '.join(present)}")
        suggested = options_in(message)
        assert suggested == ["id=SKU", "name=Title", "document=url", "image=image_url"]
        assert chosen(*present, options=tuple(suggested)) == {
            "id": "SKU",
            "name": "Title",
            "document": "url",
            "image": "image_url",
        }

    @pytest.mark.parametrize(
        ("present", "suggested"),
        [
            (["id", "title"], ["name=title"]),
            (["id", "Product Name", "Description"], ["name=Product Name", "text=Description"]),
            (["ID", "headline", "imageURL"], ["name=headline", "image=imageURL"]),
            (["product_id", "name", "body_html"], ["id=product_id", "text=body_html"]),
            (["uuid", "name", "Image Src", "Link"], ["id=uuid", "document=Link", "image=Image Src"]),
            (["id", "title", "short_title"], ["name=title"]),
        ],
    )
    def test_the_usual_names_are_known(self, present: list[str], suggested: list[str]) -> None:
        """Of shops, feeds and tables; the shortest fitting name is the likeliest."""
        assert options_in(refusal(*present)) == suggested

    def test_where_nothing_looks_meant_the_form_is_told(self) -> None:
        """With a stand-in for the column."""
        assert refusal("id", "foo", "bar") == (
            f"{SHOWN} has no column 'name'; its columns: id, foo, bar; add it, or give --column name=COLUMN"
        )

    def test_a_thousand_columns_are_not_listed(self) -> None:
        """Some of them are, and their number."""
        message = refusal(*(f"c{number}" for number in range(1000)))
        assert "c39, and 960 more" in message
        assert "c40" not in message


class TestContents:
    """A manifest whose items are nothing but names."""

    @staticmethod
    def notes(*present: str) -> list[str]:
        return explain_contents(choose_columns(present, ManifestOptions(), SHOWN), present, SHOWN)

    def test_it_is_said(self) -> None:
        """With the columns."""
        [note] = self.notes("id", "name", "price")
        assert note == (
            f"{SHOWN} has neither document, text nor image, which the default pipeline reads; its columns: "
            "id, name, price"
        )

    def test_what_looks_meant_is_suggested(self) -> None:
        """As options to type."""
        [note] = self.notes("id", "name", "url", "image_url", "description")
        assert options_in(note) == ["document=url", "text=description", "image=image_url"]

    def test_an_image_that_looks_left_out_is_said(self) -> None:
        """Where there is a text, a column of URLs may be anything, but not a column of images."""
        [note] = self.notes("id", "name", "text", "url", "photo_url")
        assert note == f"{SHOWN} has no column 'image'; if this is meant, give --column image=photo_url"

    @pytest.mark.parametrize("field", ["document", "text", "image"])
    def test_one_of_them_is_enough(self, field: str) -> None:
        """Nothing is said."""
        assert self.notes("id", "name", field) == []


class TestUnique:
    """Names that stand in a header more than once, or not at all."""

    def test_the_first_counts_and_none_is_lost(self) -> None:
        """The others get a number, and it is said."""
        columns, said = unique_columns(["id", "name", "name", "name", "name (2)"])
        assert columns == ["id", "name", "name (3)", "name (4)", "name (2)"]
        assert said == ["the column 'name' stands there 3 times: the first counts, the others are attributes"]

    def test_blanks_around_a_name_are_no_part_of_it(self) -> None:
        """An attribute is called `price` and not ` price`."""
        assert unique_columns(["id", " price", "name\xa0"]) == (["id", "price", "name"], [])

    def test_a_column_without_a_name_gets_one(self) -> None:
        """pandas writes its index so."""
        assert unique_columns(["", "id", ""]) == (["column 1", "id", "column 3"], [])
