"""What there is: filters with counts, the map, and moments of one file."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from clapkit.server.overview.points import laid_out
from clapkit.server.rows import Row
from clapkit.server.shelf import Shelf


def test_filters_count_what_is_there(store_http, served, windows):
    told = store_http.get("/filters").json()
    assert (told["rows"], told["files"]) == (18, 6)
    assert {entry["tag"]: entry["count"] for entry in told["tags"]} == {"tone": 6, "even": 3, "odd": 3}
    assert told["tags"][0]["tag"] == "tone"
    assert told["folders"] == [
        {"folder": ".", "count": 6},
        {"folder": "high", "count": 3},
        {"folder": "low", "count": 3},
    ]
    lengths = [row.duration_s for row in windows.rows]
    assert told["duration_s"] == [min(lengths), max(lengths)]
    fields = {field["name"]: field for field in told["fields"]}
    assert {
        "duration_s",
        "start_s",
        "modified_s",
        "file",
        "folder",
        "tags",
        "meta.label",
        "meta.number",
    } <= fields.keys()
    assert str(served.folder) not in store_http.get("/filters").text
    written = {"number": ("0", "="), "text": ("a", "contains"), "list": ("a", "in")}
    for field in fields.values():  # all of them can be asked for, with all that they say they take
        value, operator = written[field["kind"]]
        assert operator in field["operators"]
        for operator in field["operators"]:
            params = {"text": "rain", "where": f"{field['name']} {operator} {value}"}
            assert store_http.get("/search", params=params).status_code == 200, params


def test_the_map_has_every_file_once(store_http, windows):
    told = store_http.get("/map").json()
    assert told["files"] == len(told["points"]) == 6
    ids = {row.id: row for row in windows.rows if row.window == 0}
    for point in told["points"]:
        assert point["name"].endswith(ids[point["id"]].file.rsplit("/", 1)[1])
        assert tuple(point["tags"]) == ids[point["id"]].tags
        assert 0 <= point["x"] <= 1 and 0 <= point["y"] <= 1
    assert store_http.get("/map").json() == told
    fewer = store_http.get("/map", params={"limit": 2}).json()
    assert len(fewer["points"]) == 2 and all(point in told["points"] for point in fewer["points"])
    for limit in (0, -1, 5001, 10**9):
        answer = store_http.get("/map", params={"limit": limit})
        assert answer.status_code == 422 and f"limit is {limit}" in answer.json()["error"]["message"]


def test_a_large_library_is_shown_as_a_sample(serve, windows):
    import httpx2 as httpx

    from clapkit.search.store import Store
    from clapkit.server.rows import StoreRows

    with serve(index=StoreRows(Store.open(windows.place)), points=4) as url:
        told = httpx.get(url + "/map").json()
        assert (len(told["points"]), told["files"], told["method"]) == (4, 6, "PCA")


def test_a_map_that_takes_long_begins_with_a_sketch(serve, windows, monkeypatch):
    """Who does not wait gets places at once; others are answered meanwhile, and the better map comes in the end."""
    import httpx2 as httpx

    from clapkit.search.store import Store
    from clapkit.server.overview import points
    from clapkit.server.rows import StoreRows

    go = threading.Event()
    monkeypatch.setattr(points, "_LEAST_FOR_TSNE", 2)
    monkeypatch.setattr(points, "_tsne", lambda main_NK: main_NK[:, ::-1][:, :2] if go.wait(30) else None)
    with serve(index=StoreRows(Store.open(windows.place))) as url:
        first = httpx.get(url + "/map", params={"wait_s": 0}).json()
        assert (first["final"], first["method"], len(first["points"])) == (False, "PCA", 6)
        assert httpx.get(url + "/map", params={"wait_s": 0.2}).json() == first
        assert httpx.get(url + "/filters").json()["files"] == 6
        go.set()
        told = httpx.get(url + "/map").json()
        assert (told["final"], told["method"]) == (True, "t-SNE")
        assert [point["id"] for point in told["points"]] == [point["id"] for point in first["points"]]
        assert httpx.get(url + "/map", params={"wait_s": 1}).json() == told
        for wait_s in ("-1", "31", "nan", "inf"):
            refused = httpx.get(url + "/map", params={"wait_s": wait_s})
            assert refused.status_code == 422 and f"wait_s is {float(wait_s)}" in refused.json()["error"]["message"]


def groups(rng, count=3, each=12, width=16):
    centres = rng.standard_normal((count, width)) * 3
    vectors = np.concatenate([centre + rng.standard_normal((each, width)) * 0.3 for centre in centres])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("neighbours", [False, True])
def test_what_is_alike_lies_together(rng, neighbours):
    if neighbours:
        pytest.importorskip("sklearn")
    method, places = laid_out(groups(rng), neighbours=neighbours)
    assert method == ("t-SNE" if neighbours else "PCA")
    assert (places.min(axis=0) == 0).all() and (places.max(axis=0) == 1).all()
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 12 == np.arange(36) // 12).all()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_points_and_equal_ones_have_places(count):
    same = np.tile(np.eye(1, 5, dtype=np.float32), (count, 1))
    method, places = laid_out(same, neighbours=True)
    assert method == "PCA" and places.shape == (count, 2) and ((places >= 0) & (places <= 1)).all()
    assert laid_out(np.ones((count, 1), np.float32), neighbours=True)[1].shape == (count, 2)


def test_pca_keeps_the_order_of_what_differs_most():
    line = np.linspace(-1, 1, 9)
    vectors = np.stack([line, 0.1 * line**2, np.ones(9)], axis=1).astype(np.float32)
    _, places = laid_out(vectors, neighbours=False)
    along = places[:, 0]
    assert (np.diff(along) > 0).all() or (np.diff(along) < 0).all()


def test_moments_of_one_file(store_http, served, windows):
    (rain_D,) = served.clap.embed_text(["rain"])
    mine = [(row, v) for row, v in zip(windows.rows, windows.vectors_ND, strict=True) if row.metadata["number"] == 2]
    told = store_http.get(f"/moments/{mine[1][0].id}", params={"text": "rain"}).json()
    expected = [(row.start_s, row.start_s + row.duration_s, float(v @ rain_D)) for row, v in mine]
    for stretch, (start_s, end_s, score) in zip(told["windows"], expected, strict=True):
        assert (stretch["start_s"], stretch["end_s"]) == (start_s, end_s)
        assert stretch["score"] == pytest.approx(score, abs=2e-5)
    best = max(score for *_, score in expected)
    assert told["moments"][0]["score"] == pytest.approx(best, abs=2e-5)
    inside = [w for w in expected if w[2] >= best - 0.1]
    covered = Counter(any(m["start_s"] <= w[0] and w[1] <= m["end_s"] for m in told["moments"]) for w in inside)
    assert covered == {True: len(inside)}
    without = store_http.get(f"/moments/{mine[0][0].id}", params={"text": "rain", "without": "bell"})
    assert without.status_code == 200
    for params, status in (({}, 422), ({"text": ""}, 422), ({"text": ["x"] * 33}, 422)):
        assert store_http.get(f"/moments/{mine[0][0].id}", params=params).status_code == status
    assert store_http.get("/moments/" + "0" * 20, params={"text": "rain"}).status_code == 404


@pytest.mark.parametrize("above", ["/srv/sounds", "sounds/mine"])
def test_folders_have_names_below_the_one_that_all_share(above):
    files = [f"{above}/a/x.wav", f"{above}/b/c/y.wav"]
    shelf = Shelf(files)
    assert [shelf.folder_name(f"{above}/{name}") for name in ("a", "b/c")] == ["a", "b/c"]
    assert shelf.folder_name(above) == "."
    assert shelf.name(Row("id", files[1], 0.0, None, {})) == "b/c/y.wav"


def test_a_filter_means_the_folders_as_they_are_called():
    from clapkit.search.where import Filter

    shelf = Shelf(["/srv/sounds/a/x.wav", "/srv/sounds/b/y.wav"])
    for written, value in (
        ("folder=a", "/srv/sounds/a"),
        ("folder under .", "/srv/sounds"),
        ("file=b/y.wav", "/srv/sounds/b/y.wav"),
        ("folder in a,b", ["/srv/sounds/a", "/srv/sounds/b"]),
        ("folder contains a", "a"),
        ("tags=a", "a"),
    ):
        assert shelf.stored_filter(Filter.parse(written)).value == value
    assert Shelf([]).stored_filter(Filter.parse("folder=a")).value == "a"
