"""Hashed words are those of scikit-learn's HashingVectorizer, which the stage uses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from repli.tasks.models.word_hashing import hash_words

VECTORIZER = HashingVectorizer(n_features=64, token_pattern=r"(?u)\w+", norm="l2")


@given(st.text(max_size=60))
def test_a_text_has_the_vector_of_scikit_learn(text: str) -> None:
    """Of any text: places, signs and length are the same."""
    expected = VECTORIZER.transform([text]).toarray()[0]
    np.testing.assert_allclose(hash_words(text, 64), expected, atol=1e-7)


def test_many_words_have_the_vector_of_scikit_learn() -> None:
    """Of words of each length, many of which share a place."""
    text = " ".join(f"{'wörd' * (number % 4)}{number}" for number in range(3000))
    np.testing.assert_allclose(hash_words(text, 64), VECTORIZER.transform([text]).toarray()[0], atol=1e-7)


def test_a_text_without_a_word_has_no_direction() -> None:
    """Its vector is all zeros."""
    assert not hash_words("?! …", 64).any()
