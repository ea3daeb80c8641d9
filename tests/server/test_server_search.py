"""All that a store can be asked over HTTP, against plain sums over its vectors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

RATE_HZ = 8000


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def found(http, how="get", **params):
    """The results of a search, by GET or as a form."""
    if how == "get":
        answer = http.get("/search", params=params)
    else:
        sound = params.pop("sound", None)
        words = [(name, (None, str(v))) for name, vs in params.items() for v in (vs if isinstance(vs, list) else [vs])]
        answer = http.post("/search", files=[*words, *([("sound", sound)] if sound else [])])
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def check(results, ids, scores_N, k):
    """Against scores of all rows that may be found: the best, in their order."""
    order = np.argsort(-scores_N, kind="stable")[:k]
    assert [hit["score"] for hit in results] == pytest.approx(scores_N[order].tolist(), abs=2e-5)
    assert {hit["id"] for hit in results} <= set(ids)
    for hit in results:
        assert hit["score"] == pytest.approx(scores_N[ids.index(hit["id"])], abs=2e-5)


@pytest.mark.parametrize("how", ["get", "post"])
def test_several_texts_without_and_examples(store_http, served, windows, how):
    ids, vectors_ND = windows.found()
    rain_D, bell_D, dog_D = served.clap.embed_text(["rain", "bell", "a dog barks"])
    both = unit(rain_D + bell_D)
    check(found(store_http, how, text=["rain", "bell"], k=7), ids, vectors_ND @ both, 7)
    scores_N = vectors_ND @ both - 0.5 * np.maximum(vectors_ND @ dog_D, 0)
    check(found(store_http, how, text=["rain", "bell"], without="a dog barks", k=5), ids, scores_N, 5)
    nearest_N = np.maximum(vectors_ND @ rain_D, vectors_ND @ bell_D)
    check(found(store_http, how, text=["rain", "bell"], joined="any", k=5), ids, nearest_N, 5)
    check(found(store_http, how, text="rain", exact="true", k=3), ids, vectors_ND @ rain_D, 3)
    example = vectors_ND[4]
    kept = [n for n in range(len(ids)) if n != 4]
    by_example = found(store_http, how, like=ids[4], k=6)
    check(by_example, [ids[n] for n in kept], (vectors_ND @ example)[kept], 6)
    mixed = found(store_http, how, like=[ids[4], ids[7]], text="rain", k=4)
    kept = [n for n in range(len(ids)) if n not in (4, 7)]
    direction = unit(vectors_ND[4] + vectors_ND[7] + rain_D)
    check(mixed, [ids[n] for n in kept], (vectors_ND @ direction)[kept], 4)


def test_filters(store_http, served, windows):
    (rain_D,) = served.clap.embed_text(["rain"])
    for where, kept in (
        ("tags=even", lambda row: row.metadata["number"] % 2 == 0),
        ("start_s>=0.25", lambda row: row.start_s >= 0.25),
        (["start_s>=0.25", "tags=odd"], lambda row: row.start_s >= 0.25 and row.metadata["number"] % 2 == 1),
        ("meta.label=tone 3", lambda row: row.metadata["number"] == 3),
        ("folder=high", lambda row: "/high/" in row.file),
        ("folder under .", lambda row: True),
        ("folder in high,low", lambda row: True),
        ("file=high/tone 1.wav", lambda row: row.file.endswith("tone 1.wav")),
        ("file contains TONE 2", lambda row: row.file.endswith("tone 2.wav")),
    ):
        ids, vectors_ND = windows.found(kept)
        for how in ("get", "post"):
            results = found(store_http, how, text="rain", where=where, k=50)
            assert {hit["id"] for hit in results} == set(ids), where
            check(results, ids, vectors_ND @ rain_D, 50)
    assert found(store_http, text="rain", where="tags=nobody has this") == []


def test_no_value_of_a_filter_breaks_out(store_http):
    for where in (
        "tags=' OR 1=1 --",
        "meta.label=x') OR (id != '",
        "file=x' OR 'a'='a",
        "folder under ' OR 1=1 --",
        'label="\\"; DROP TABLE space;',
        "tags in ','',''','",
        "id=\\' OR 1=1",
    ):
        assert found(store_http, text="rain", where=where) == [], where


def test_words_of_names_lift_what_is_named_so(store_http, windows):
    plain = [hit["id"] for hit in found(store_http, text="rain", k=18)]
    fused = found(store_http, text="rain", words="tone 5", k=18)
    of_five = {row.id for row in windows.rows if row.metadata["number"] == 5}
    places = [[n for n, id in enumerate(order) if id in of_five] for order in (plain, [hit["id"] for hit in fused])]
    assert max(places[1]) < 5 and sum(places[1]) < sum(places[0])
    cosines = {hit["id"]: hit["score"] for hit in found(store_http, text="rain", k=18)}
    for hit in fused:
        assert hit["score"] == pytest.approx(cosines[hit["id"]], abs=2e-5)  # a cosine, whatever the order


def test_moments_are_stretches_of_files(store_http, windows, served):
    (rain_D,) = served.clap.embed_text(["rain"])
    results = found(store_http, text="rain", moments="true", k=50)
    ids, vectors_ND = windows.found()
    scores = dict(zip(ids, (vectors_ND @ rain_D).tolist(), strict=True))
    kept = [row for row in windows.rows if scores[row.id] >= max(scores.values()) - 0.1]
    of_file = {}
    for row in sorted(kept, key=lambda row: (row.file, row.start_s)):
        spans = of_file.setdefault(row.file, [])
        if spans and row.start_s <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], row.start_s + row.duration_s))
        else:
            spans.append((row.start_s, row.start_s + row.duration_s))
    expected = sorted((file.rsplit("/", 1)[1], *span) for file, spans in of_file.items() for span in spans)
    assert sorted((hit["name"].split("/")[1], hit["start_s"], hit["end_s"]) for hit in results) == expected
    for hit in results:
        assert hit["score"] == pytest.approx(scores[hit["id"]], abs=2e-5)
        assert hit["duration_s"] == pytest.approx(hit["end_s"] - hit["start_s"])


def test_variety_and_copies(store_http, windows):
    vector_of = dict(zip(*windows.found(), strict=True))

    def likeness(results):
        vectors = np.array([vector_of[hit["id"]] for hit in results])
        return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]

    plain, varied = found(store_http, text="rain", k=4), found(store_http, text="rain", variety=1, k=4)
    assert varied[0]["id"] == plain[0]["id"]
    assert likeness(varied).max() < likeness(plain).max()
    assert [hit["id"] for hit in found(store_http, text="rain", variety=0, k=4)] == [hit["id"] for hit in plain]
    apart = found(store_http, text="rain", copies_above=0.9, k=18)
    assert len(apart) < 18 and likeness(apart).max() < 0.9


def test_a_region_of_a_sound(store_http, served, windows):
    low, high = (soundfile.read(served.files[n])[0] for n in (0, 5))
    joined = io.BytesIO()
    soundfile.write(joined, np.concatenate([low, high]), RATE_HZ, format="WAV")
    ids, vectors_ND = windows.found()
    for start_s, end_s, part in ((0, 1, low), (1, 2, high), (1.5, 1.75, high[4000:6000])):
        (heard_D,) = served.clap.embed_audio([(part, RATE_HZ)])
        results = found(store_http, "post", sound=joined.getvalue(), start_s=start_s, end_s=end_s, k=5)
        check(results, ids, vectors_ND @ heard_D, 5)
    rest = found(store_http, "post", sound=joined.getvalue(), start_s=1, k=5)
    check(rest, ids, vectors_ND @ served.clap.embed_audio([(high, RATE_HZ)])[0], 5)


def test_each_result_says_where_it_is(store_http, served):
    answer = store_http.get("/search", params={"text": "rain", "k": 18}).json()
    assert (answer["rows"], answer["space_id"]) == (18, served.clap.space_id)
    for hit in answer["results"]:
        number = hit["metadata"]["number"]
        assert hit["name"] == f"{'high' if number % 2 else 'low'}/tone {number}.wav"
        assert hit["end_s"] == pytest.approx(hit["start_s"] + hit["duration_s"])
        assert hit["start_s"] == pytest.approx(0.25 * hit["window"], abs=1e-3)
        assert hit["tags"] == ["tone", "odd" if number % 2 else "even"]


REFUSED = (
    ({"text": ["rain"] * 20, "without": ["x"] * 13}, "33 times", "at most 32"),
    ({"text": "rain", "where": ["tags=a"] * 17}, "where comes 17 times", "16"),
    ({"text": "rain", "where": "durations_s>2"}, "no field 'durations_s'", "duration_s"),
    ({"text": "rain", "where": "duration_s>long"}, "duration_s", "number"),
    ({"text": "rain", "where": "duration_s like 2"}, "is no filter", ""),
    ({"text": "rain", "where": "tags<3"}, "no operator '<'", ""),
    ({"text": "rain", "where": "duration_s>=nan"}, "number", "nan"),
    ({"text": "rain", "where": ""}, "where is empty", ""),
    ({"text": "rain", "where": "tags=a\x00b"}, "U+0000", ""),
    ({"text": "rain", "where": "tags=" + "x" * 3000}, "3005 characters", "2000"),
    ({"text": "rain", "words": ""}, "words is empty", ""),
    ({"text": ["rain", " "]}, "text 2 is empty", ""),
    ({"like": "../x"}, "like is '../x'", "id of a row"),
    ({"text": "rain", "joined": "most"}, "joined", "any"),
    ({"text": "rain", "variety": 1.5}, "variety is 1.5", "0 to 1"),
    ({"text": "rain", "variety": "nan"}, "variety is nan", "0 to 1"),
    ({"text": "rain", "copies_above": -2}, "copies_above is -2", "-1 to 1"),
    ({"text": "rain", "moments": "true", "variety": 0.5}, "leave out variety", ""),
    ({"where": "tags=a"}, "nothing to look for", ""),
    ({"text": "rain", "k": 501}, "k is 501", "1 to 500"),
)


@pytest.mark.parametrize(("params", "told", "more"), REFUSED)
def test_searches_that_are_none(store_http, params, told, more):
    words = [(name, (None, str(v))) for name, vs in params.items() for v in (vs if isinstance(vs, list) else [vs])]
    for answer in (store_http.get("/search", params=params), store_http.post("/search", files=words)):
        assert answer.status_code == 422, answer.text
        message = answer.json()["error"]["message"]
        assert told in message and more in message, message


@pytest.mark.parametrize("how", ["get", "post"])
def test_seconds_of_an_indexed_file_are_an_example(store_http, served, windows, how):
    """Heard like an uploaded sound; the rows that overlap them are not among the results, others of the file are."""
    row = next(row for row in windows.rows if row.window == 1 and row.file.endswith("tone 3.wav"))
    samples_N, rate_hz = soundfile.read(served.files[3], dtype="float32")
    part_D = served.clap.embed_audio([(samples_N[round(0.1 * rate_hz) : round(0.4 * rate_hz)], rate_hz)])[0]
    overlap = {r.id for r in windows.rows if r.file == row.file and r.start_s < 0.4 and r.start_s + r.duration_s > 0.1}
    beside = {r.id for r in windows.rows if r.file == row.file} - overlap
    assert overlap and beside
    ids, vectors_ND = windows.found(lambda r: r.id not in overlap)
    results = found(store_http, how, like=f"{row.id}:0.1-0.4", k=len(windows.rows))
    check(results, ids, vectors_ND @ part_D, len(ids))
    assert beside <= {hit["id"] for hit in results}
    rain_D = served.clap.embed_text(["rain"])[0]
    mixed = found(store_http, how, like=[f"{row.id}:0.1-0.4"], text="rain", without="bell", k=3)
    bell_N = np.maximum(vectors_ND @ served.clap.embed_text(["bell"])[0], 0)
    check(mixed, ids, vectors_ND @ unit(part_D + rain_D) - 0.5 * bell_N, 3)


def test_stretches_that_are_none(store_http, http, windows):
    id = windows.rows[0].id
    for like, status, told in (
        (f"{id}:0.5", 422, "ID:FROM-TO"),
        (f"{id}:-1-2", 422, "ID:FROM-TO"),
        (f"{id}:nan-2", 422, "ID:FROM-TO"),
        (f"{id}:1e1-2e1", 422, "ID:FROM-TO"),
        (f"{id}:0-99999999", 422, "ID:FROM-TO"),
        (f"{id}:\u0661-\u0662", 422, "ID:FROM-TO"),
        (f"{id}:2-2", 422, "has to end after it begins"),
        (f"{id}:0-121", 413, "121 s of sounds"),
        ([f"{id}:0-70", f"{id}:0-60"], 413, "130 s of sounds"),
        (f"{id}:50-60", 422, "cannot be used"),
        (f"{'0' * 20}:0-1", 404, "0" * 20),
    ):
        answer = store_http.get("/search", params={"like": like})
        assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text
    row = http.get("/search", params={"text": "rain", "k": 1}).json()["results"][0]
    others = http.get("/search", params={"like": f"{row['id']}:0.2-0.6", "k": 9}).json()["results"]
    assert len(others) == 5 and row["id"] not in {other["id"] for other in others}


def test_more_searches_that_are_none(store_http, served):
    sound = {"sound": served.files[0].read_bytes()}
    for fields, status, told in (
        ({"start_s": "1", "text": "rain"}, 422, "start_s is a place in an uploaded sound"),
        ({"start_s": "x"}, 422, "start_s is 'x'"),
        ({"start_s": "0.5", "end_s": "0.5"}, 422, "no stretch"),
        ({"start_s": "-1"}, 422, "start_s is -1.0"),
        ({"start_s": "1e9"}, 422, "start_s is 1000000000.0"),
        ({"end_s": "inf"}, 422, "no stretch"),
        ({"end_s": "200"}, 413, "at most 120 s"),
        ({"start_s": "50"}, 422, "cannot be used"),
        ({"moments": "perhaps"}, 422, "moments is 'perhaps'"),
        ({"joined": ["any", "any"]}, 422, "'joined' comes 2 times"),
    ):
        files = sound if "text" not in fields else None
        words = [(name, (None, v)) for name, vs in fields.items() for v in (vs if isinstance(vs, list) else [vs])]
        answer = store_http.post("/search", files=[*words, *(files or {}).items()])
        assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text
    unknown = store_http.get("/search", params={"text": "rain", "wihtout": "dog"})
    assert unknown.status_code == 422 and "did you mean 'without'" in unknown.json()["error"]["message"]
    missing = store_http.get("/search", params={"like": "0" * 20})
    assert missing.status_code == 404 and "0" * 20 in missing.json()["error"]["message"]


def test_an_index_of_the_old_kind_says_what_it_lacks(http, served):
    for params in ({"where": "tags=a"}, {"words": "tone"}, {"moments": "true"}, {"variety": 0.5}, {"joined": "any"}):
        answer = http.get("/search", params={"text": "rain", **params})
        assert answer.status_code == 501 and "index the sounds again" in answer.json()["error"]["message"], params
    id = http.get("/search", params={"text": "rain", "k": 1}).json()["results"][0]["id"]
    for path in ("/filters", "/map", f"/moments/{id}?text=rain"):
        answer = http.get(path)
        assert answer.status_code == 404 and "index the sounds again" in answer.json()["error"]["message"]
    assert len(http.get("/search", params={"text": ["rain", "bell"], "like": id, "k": 9}).json()["results"]) == 5
