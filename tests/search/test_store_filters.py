"""Filters: against a loop over the rows, values that try to break out, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")

from clapkit.errors import SpecError
from clapkit.search import view as views
from clapkit.search.rows import Row
from clapkit.search.store import Store
from clapkit.search.where import Filter, sql_of

ROWS = [
    Row(
        f"{folder}/s{n}.wav", 0, 0.0, float(n), f"h{n}", "p", float(n), n,
        tags=("rain", "o'brien") if n % 3 == 0 else ("dog",) if n % 3 == 1 else (),
        metadata={"licence": ("cc0", "CC BY")[n % 2], "bpm": n % 4, "loop": n % 2 == 0} if n % 5 else {},
    )
    for n, folder in enumerate(["drums", "drums/tabla", "drums_old", "it's", "100%_a"] * 6)
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store.create(tmp_path_factory.mktemp("filters") / "s", space_id="a", pipeline_id="p", dimension=4)
    store.add(ROWS, np.random.default_rng(0).standard_normal((len(ROWS), 4)))
    yield store
    store.close()


def found(store, *filters: Filter) -> set[str]:
    ids, _ = store.search(np.ones((1, 4)), 1000, list(filters))
    return {row.file for row in store.view.rows(ids[0])}


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ([Filter("duration_s", ">=", 7)], lambda r: r.duration_s >= 7),
        ([Filter("duration_s", ">", 3), Filter("duration_s", "<=", 20.5)], lambda r: 3 < r.duration_s <= 20.5),
        ([Filter("size_bytes", "!=", 4)], lambda r: r.size_bytes != 4),
        ([Filter("modified_s", "<", 11)], lambda r: r.mtime_s < 11),
        ([Filter("folder", "under", "drums")], lambda r: r.file.startswith("drums/")),
        ([Filter("folder", "under", "drums/")], lambda r: r.file.startswith("drums/")),
        ([Filter("folder", "=", "drums")], lambda r: r.file.rsplit("/", 1)[0] == "drums"),
        ([Filter("folder", "=", "it's")], lambda r: r.file.startswith("it's/")),
        ([Filter("file", "contains", "TABLA")], lambda r: "tabla" in r.file),
        ([Filter("file", "contains", "%_")], lambda r: "%_" in r.file),
        ([Filter("file", "contains", "%s1")], lambda r: False),
        ([Filter("licence", "=", "cc0")], lambda r: r.metadata.get("licence") == "cc0"),
        ([Filter("licence", "!=", "cc0")], lambda r: r.metadata.get("licence") != "cc0"),
        ([Filter("licence", "in", ["cc0", "CC BY"])], lambda r: "licence" in r.metadata),
        ([Filter("tags", "=", "o'brien")], lambda r: "o'brien" in r.tags),
        ([Filter("tags", "!=", "rain")], lambda r: "rain" not in r.tags),
        ([Filter("tags", "in", ["dog", "cat"])], lambda r: "dog" in r.tags),
        ([Filter("meta.bpm", "=", 3)], lambda r: r.metadata.get("bpm") == 3),
        ([Filter("meta.loop", "=", True)], lambda r: r.metadata.get("loop") is True),
        ([Filter("meta.bpm", "in", [1, "2"])], lambda r: r.metadata.get("bpm") in (1, 2)),
        ([Filter("id", "=", ROWS[4].id)], lambda r: r is ROWS[4]),
        ([Filter.parse("folder under drums"), Filter.parse("duration_s < 12")],
         lambda r: r.file.startswith("drums/") and r.duration_s < 12),
        ([Filter.parse("tags in rain, dog")], lambda r: len(r.tags) > 0),
        ([Filter.parse("meta.bpm=2")], lambda r: r.metadata.get("bpm") == 2),
        ([Filter.parse("licence=CC BY")], lambda r: r.metadata.get("licence") == "CC BY"),
        ([], lambda r: True),
    ],
)  # fmt: skip
def test_filters_hold_for_the_rows_that_a_loop_finds(store, filters, holds):
    assert found(store, *filters) == {row.file for row in ROWS if holds(row)}


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.text(max_size=30), st.sampled_from(["' OR 1=1 --", "'; DROP TABLE x", "\\' OR ''='", "''", "\x00'"]))
)
def test_no_value_breaks_out_of_its_quotes(store, value):
    names = {row.file for row in ROWS}
    assert found(store, Filter("file", "=", value)) == names & {value}
    assert found(store, Filter("tags", "=", value)) == {row.file for row in ROWS if value in row.tags}
    assert found(store, Filter("meta." + (value or "x"), "=", value)) == set()


def test_filters_bound_the_search_by_words_too(store):
    assert {i for i, _ in store.view.words("tabla", 99)} == {r.id for r in ROWS if "tabla" in r.file}
    ids = {i for i, _ in store.view.words("tabla", 99, where=Filter("duration_s", "<", 10))}
    assert ids == {r.id for r in ROWS if "tabla" in r.file and r.duration_s < 10}


@pytest.mark.parametrize(
    ("field", "operator", "value", "message"),
    [
        ("duraton_s", "=", 1, "no field 'duraton_s'.*did you mean 'duration_s'"),
        ("1=1 OR file", "=", "x", "no field '1=1 OR file'"),
        ("meta.", "=", "x", r"no field 'meta\.'"),
        ("duration_s", "under", 1, "duration_s has no operator 'under'"),
        ("file", "LIKE", "x", "file has no operator 'LIKE'"),
        ("tags", "<", "x", "tags has no operator '<'"),
        ("duration_s", "=", "1 OR 1=1", "duration_s is compared with a number, not with '1 OR 1=1'"),
        ("duration_s", "=", float("nan"), "not with nan"),
        ("duration_s", "=", True, "not with True"),
        ("file", "=", 5, "file is compared with a text, not with 5"),
        ("file", "under", 5, "file is compared with a text, not with 5"),
        ("file", "=", "\udcff", "not valid Unicode"),
        ("tags", "in", "rain", "'rain': expected a list"),
        ("tags", "in", [], "expected a list"),
    ],
)
def test_what_does_not_fit_is_refused(field, operator, value, message):
    with pytest.raises(SpecError, match=message):
        Filter(field, operator, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no filter"),
        ("duration_s", "is no filter"),
        ("duration_s > long", "not with 'long'"),
        ("x=1", "no field 'x'"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        Filter.parse(text)


def test_no_filters_are_no_condition():
    assert sql_of(None) is None and sql_of([]) is None
    assert sql_of(Filter("start_s", "<", 2)) == "(start_s < 2.0)"


def test_a_filter_is_looked_up_once(store, monkeypatch):
    view, looked = Store.open(store.place.name).view, []
    whole = view._places
    monkeypatch.setattr(view, "_places", lambda sql, most: looked.append(sql) or whole(sql, most))
    monkeypatch.setattr(views, "_FILTERS", 2)
    rain, dog, long = Filter("tags", "=", "rain"), Filter("tags", "=", "dog"), Filter("duration_s", ">=", 7)
    rng = np.random.default_rng(1)
    for filters in ([rain], [dog], [rain], [dog], [long], [long], [rain]):  # the third leaves room for itself alone
        query_1D = rng.standard_normal((1, 4))
        (ids,), scores = view.search(query_1D, 5, where=filters)
        (expected,), same = Store.open(store.place.name).view.search(query_1D, 5, where=filters)
        assert ids == expected and np.array_equal(scores, same)
    assert len(looked) == 4
