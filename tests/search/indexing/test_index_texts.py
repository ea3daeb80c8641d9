"""Texts that stand for queries, and the vector index that is built when a library has grown."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.errors import SearchIndexError
from clapkit.search import view as views
from clapkit.search.indexing.texts import texts_like_queries, tune_if_large
from clapkit.search.rows import Row

WIDTH = 8  # of the fixture `store`


def rows(count, **about):
    return [Row(f"/x/kickDrum{n:04d}.wav", 0, 0.0, 1.0, f"h{n}", "p", **about) for n in range(count)]


def test_labels_tags_and_captions_come_first_then_everyday_words_then_names(store):
    said = rows(3, tags=("near", "loud"), metadata={"label": "dog", "caption": "a dog barks\nanother sentence"})
    store.add(said, np.eye(3, WIDTH))
    texts = texts_like_queries(store.view)
    assert set(texts[:4]) == {"near", "loud", "dog", "a dog barks"}
    assert "glass breaking" in texts and "kick drum" in texts
    assert len(set(texts)) == len(texts) and texts == texts_like_queries(store.view)
    assert len(texts_like_queries(store.view, limit=3)) == 3


def test_an_empty_library_has_everyday_words(store):
    assert "rain falling" in texts_like_queries(store.view)


def test_the_vector_index_is_built_when_it_is_needed_and_again_at_twice_the_size(store, monkeypatch, rng):
    asked = []

    def queries(texts):
        asked.append(len(texts))
        return rng.standard_normal((len(texts), WIDTH))

    monkeypatch.setattr(views, "EXACT_ROWS", 600)
    store.add(rows(600), rng.standard_normal((600, WIDTH)))
    assert tune_if_large(store, queries) is None and not asked
    store.add(rows(700), rng.standard_normal((700, WIDTH)))
    tuning = tune_if_large(store, queries)
    assert tuning.rows == 700 and tuning.recall >= 0.95 and 0 < asked[0] <= 100
    assert store.view.space.tuning == tuning
    assert tune_if_large(store, queries) is None
    store.add(rows(1400), rng.standard_normal((1400, WIDTH)))
    assert tune_if_large(store, queries).rows == 1400


def test_where_no_setting_is_good_enough_that_is_told(store, monkeypatch, rng):
    def refuse(*_, **__):
        raise SearchIndexError("no setting finds 0.95 of the nearest 10")

    monkeypatch.setattr(views, "EXACT_ROWS", 1)
    monkeypatch.setattr("clapkit.search.indexing.texts.tune", refuse)
    store.add(rows(2), np.eye(2, WIDTH))
    with pytest.raises(SearchIndexError, match="Until then every row is compared"):
        tune_if_large(store, lambda texts: np.ones((len(texts), WIDTH)))
