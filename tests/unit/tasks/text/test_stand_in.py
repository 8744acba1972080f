"""Pages in the place of a document: told from documents, those about such pages too."""

from __future__ import annotations

import pytest

from repli.tasks.fallback import Declined
from repli.tasks.text.stand_in import HARDLY_ANY, LITTLE, NOTHING_ELSE, check_is_no_stand_in
from tests.support.stand_in_pages import ABOUT, FIRST, SECOND, THIRD

PAGES = {**FIRST, **SECOND, **THIRD}
MISSED = {"facebook-like"}
"""It says so in a line alone, and of "content": a line that a post with a film that is gone has too."""

REASONS = {
    "cloudflare, managed challenge": "a check against bots: its markup has '_cf_chl_opt'; fetch it with a browser",
    "drupal, access denied in a whole page": 'a refusal: it says "Access denied"; give a copy that may be read',
    "board that asks to log in": 'a log-in: it says "Login"; give a copy that opens without one',
    "french town": 'one that says there is no such page: it says "Page introuvable"; correct the address',
    "azure": 'an error of its server: it says "Service unavailable"; run again with --refresh once the server is well',
}
PROSE = "<p>The lift had stopped between two floors, and the voice in the wall said the word again, kindly.</p>"


def declined(page: str) -> str | None:
    """Why a page is declined; None where it is not."""
    try:
        check_is_no_stand_in(page)
    except Declined as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in PAGES if name not in MISSED])
def test_a_page_in_the_place_of_a_document_is_declined(name: str) -> None:
    """With what it is, what was seen, and what to do."""
    reason = declined(PAGES[name])
    assert reason is not None
    assert reason.startswith("the page is no document but " + REASONS.get(name, ""))


@pytest.mark.parametrize("name", ABOUT)
def test_a_page_about_such_pages_is_a_document(name: str) -> None:
    """As short as they are, and whatever fields and words they have."""
    assert declined(ABOUT[name]) is None


def page(title: str, body: str, head: str = "") -> str:
    return f"<!doctype html><html><head><title>{title}</title>{head}</head><body>{body}</body></html>"


UNLISTED = '<meta content="noindex, follow" name="robots">'
ARTICLE = '<meta property="og:type" content="article">'
FEW, SOME, MANY = (PROSE[:NOTHING_ELSE], HARDLY_ANY // 100 * PROSE, LITTLE // 50 * PROSE)


@pytest.mark.parametrize("title", ["Sign in", "Not found | Lamps", "Just a moment...", "403 Forbidden", "Error"])
def test_a_name_alone_is_not_enough(title: str) -> None:
    """Films and words are called so: there is nothing else, or little and a second sign, and the page is no article."""
    assert declined(page(title, FEW)) is not None
    assert declined(page(title, SOME)) is None
    assert declined(page(title, SOME, UNLISTED)) is not None
    assert declined(page(title, SOME, UNLISTED + ARTICLE)) is None
    assert declined(page(title, MANY, UNLISTED)) is None


@pytest.mark.parametrize(
    "sentence", ["This page could not be found", "Please log in to continue", "Seite nicht gefunden"]
)
def test_a_sentence_is_enough_where_there_is_hardly_any_other_text(sentence: str) -> None:
    """In the title, or in a line of its own; with more text, a second sign is needed."""
    for title, line in ((sentence, ""), ("Lamps", f"<p>{sentence}.</p>")):
        assert declined(page(title, line + SOME)) is not None
        assert declined(page(title, line + 2 * SOME)) is None
        assert declined(page(title, line + 2 * SOME, UNLISTED)) is not None
        assert declined(page(title, line + MANY, UNLISTED)) is None
    assert declined(page("Lamps", f"<p>The voice in the wall said: {sentence}.</p>")) is None


def test_text_that_shows_without_scripts_counts() -> None:
    """Forums write their posts there, beside an empty page with a hidden log-in."""
    posts = f"<noscript>{LITTLE // 75 * PROSE}</noscript>"
    log_in = '<form style="display:none"><input name="u"><input type="password" name="p"></form>'
    assert declined(page("Log in", log_in)) is not None
    assert declined(page("Log in", log_in + posts)) is None


def test_words_around_a_page_do_not_make_it_one() -> None:
    """Menus, boxes and buttons speak of log-ins on each page of a site; so do lines below a short text."""
    around = "<nav><h2>Log in</h2></nav><aside><h3>Sign in</h3></aside><div role=dialog><h2>Page not found</h2></div>"
    below = (
        "<p>You must be logged in to post a comment.</p><p>Please log in to see our prices.</p><button>Login</button>"
    )
    assert declined(page("Rye with caraway", around + "<h1>Rye</h1><p>Mix flour and water.</p>" + below)) is None


@pytest.mark.parametrize("tag", ["html", "body"])
def test_a_page_that_is_hidden_until_a_script_runs_has_its_text(tag: str) -> None:
    """It says `hidden` of all of itself; what is in it counts all the same."""
    assert declined(page("Error", SOME).replace(f"<{tag}>", f"<{tag} hidden role=dialog>")) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "repeated",
    ["<meta name=robots ", "<body class=x ", "<iframe ", "error ", "the page ", "requires you to be ", "to "],
)
def test_a_hostile_page_takes_no_time(repeated: str) -> None:
    """Each pattern reads a page about once, however it repeats itself."""
    declined(f"<html><body>{repeated * 20_000}")
    declined(page(repeated * 5_000, f"<h1>{repeated * 5_000}</h1>"))
