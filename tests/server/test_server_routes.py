"""Every route of the server, asked over a real socket, against the library called directly."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from clapkit.server.rows import ExactRows


def unit(vector):
    return vector / np.linalg.norm(vector)


def ids_of(served):
    """Row ids by the number of the file."""
    rows = ExactRows(served.index)
    found = rows.search(np.ones((1, rows.dimension), np.float32) / 4, len(rows))[0]
    return {row.metadata["number"]: row.id for row, _ in found}


def expected(served, query_D, k):
    """The files nearest to a query and their cosines, by the definition."""
    scores = served.clap.embed_audio(served.files) @ unit(query_D)
    best = np.argsort(-scores)[:k]
    return [f"{served.files[n].parent.name}/{served.files[n].name}" for n in best], scores[best].tolist()


def check(answer, served, query_D, k):
    assert answer.status_code == 200, answer.text
    found = answer.json()
    names, scores = expected(served, query_D, k)
    assert [hit["name"] for hit in found["results"]] == names
    assert [hit["score"] for hit in found["results"]] == pytest.approx(scores, abs=1e-5)
    assert found["rows"] == 6


def test_search_by_words(http, served):
    query_D = served.clap.embed_text(["rain outside"])[0]
    check(http.get("/search", params={"text": "  rain outside ", "k": 4}), served, query_D, 4)
    hit = http.get("/search", params={"text": "rain outside", "k": 1}).json()["results"][0]
    assert hit.keys() == {
        *("id", "score", "name", "start_s", "end_s", "duration_s", "tags", "window", "metadata", "audio", "spectrogram")
    }
    assert (hit["start_s"], hit["duration_s"], hit["metadata"].keys()) == (0.0, 1.0, {"number"})
    assert http.get(hit["audio"]).status_code == http.get(hit["spectrogram"]).status_code == 200


def test_search_without_something(http, served):
    wanted_D, avoided_D = served.clap.embed_text(["a bell", "rain"])
    answer = http.get("/search", params={"text": "a bell", "without": "rain", "k": 6})
    check(answer, served, wanted_D - 0.5 * avoided_D, 6)


def test_search_by_sound_by_words_and_by_both(http, served):
    sound = {"sound": ("x.wav", served.files[3].read_bytes())}
    heard_D, text_D, avoided_D = (
        served.clap.embed_audio([served.files[3]])[0],
        *served.clap.embed_text(["bell", "rain"]),
    )
    check(http.post("/search", files=sound), served, heard_D, 6)
    check(http.post("/search", files=sound, data={"k": "2"}), served, heard_D, 2)
    check(http.post("/search", files=sound, data={"text": "bell"}), served, heard_D + text_D, 6)
    without = http.post("/search", files=sound, data={"text": "bell", "without": "rain"})
    check(without, served, (heard_D + text_D) / 2 - 0.5 * avoided_D, 6)
    check(http.post("/search", files={"text": (None, "bell")}), served, text_D, 6)


def test_a_query_in_another_script(http, served):
    check(
        http.get("/search", params={"text": "звук дождя 雨の音"}),
        served,
        served.clap.embed_text(["звук дождя 雨の音"])[0],
        6,
    )


def test_embeddings_in_the_shape_of_openai(http, served):
    texts = ["rain", "a dog barks", "rain"]
    for path in ("/embed", "/v1/embeddings"):
        told = http.post(path, json={"input": texts, "model": "anything"}).json()
        assert told["object"] == "list" and told["model"] == served.clap.space_id
        assert [(d["object"], d["index"]) for d in told["data"]] == [("embedding", n) for n in range(3)]
        np.testing.assert_allclose([d["embedding"] for d in told["data"]], served.clap.embed_text(texts), atol=1e-6)
    packed = http.post("/embed", json={"input": "rain", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(
        np.frombuffer(base64.b64decode(packed), "<f4"), served.clap.embed_text(["rain"])[0], atol=1e-6
    )


def test_the_embedding_of_a_sound(http, served):
    told = http.post("/embed", files={"sound": served.files[1].read_bytes()}).json()
    np.testing.assert_allclose(told["data"][0]["embedding"], served.clap.embed_audio([served.files[1]])[0], atol=1e-6)


def test_classify_an_upload_and_a_row(http, served):
    labels = ["bell", "dog bark", "rain"]
    for template in (None, "I hear {}"):
        expected_labels = served.clap.classify([served.files[2]], labels, template=template)[0]
        more = {} if template is None else {"template": template}
        sound = {"sound": served.files[2].read_bytes()}
        by_upload = http.post("/classify", files=sound, data={"labels": labels, **more}).json()["labels"]
        fields = {"id": (None, ids_of(served)[2]), **{k: (None, v) for k, v in more.items()}}
        by_id = http.post("/classify", files=[*fields.items(), *(("labels", (None, name)) for name in labels)])
        for told in (by_upload, by_id.json()["labels"]):
            assert [entry["label"] for entry in told] == [name for name, _ in expected_labels]
            assert [entry["probability"] for entry in told] == pytest.approx([p for _, p in expected_labels], abs=1e-5)
    one = http.post("/classify", files=sound, data={"labels": labels, "top_k": "1"}).json()["labels"]
    assert len(one) == 1


def test_similar_leaves_the_row_itself_out(http, served):
    vectors_ND = served.clap.embed_audio(served.files)
    scores = vectors_ND @ vectors_ND[4]
    order = [n for n in np.argsort(-scores).tolist() if n != 4][:3]
    found = http.get(f"/similar/{ids_of(served)[4]}", params={"k": 3}).json()["results"]
    assert [hit["metadata"]["number"] for hit in found] == order
    assert [hit["score"] for hit in found] == pytest.approx(scores[order].tolist(), abs=1e-5)


def test_the_sound_whole_and_in_ranges(http, served):
    whole, path = served.files[0].read_bytes(), f"/audio/{ids_of(served)[0]}"
    answer = http.get(path)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["accept-ranges"] == "bytes"
    for asked, start, stop in (("bytes=0-99", 0, 100), ("bytes=100-", 100, len(whole)), ("bytes=-7", -7, len(whole))):
        part = http.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole[start:stop])
    beyond = http.get(path, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(whole)}"
    assert f"has {len(whole)} bytes" in beyond.json()["error"]["message"]
    for none in ("bytes=nonsense", "bytes=5-1", "rows=1-2", "bytes"):
        answer = http.get(path, headers={"Range": none})
        assert answer.status_code == 400 and f"'{none}'" in answer.json()["error"]["message"]


def test_heads_without_bodies(http, served):
    """What players, link previews and monitors ask before they ask for all of it."""
    id = http.get("/search", params={"text": "rain", "k": 1}).json()["results"][0]["id"]
    for path in (f"/audio/{id}", "/", "/page/js/main.js", "/healthz"):
        head, whole = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content)) and whole.content
        assert head.headers["content-type"] == whole.headers["content-type"]
    refusal = http.head("/search", params={"text": "rain"})
    assert refusal.status_code == 405 and "GET" in refusal.headers["allow"]


def test_what_is_known_of_a_row(http, served):
    told = http.get(f"/sounds/{ids_of(served)[5]}").json()
    assert (told["name"], told["score"], told["metadata"]) == ("high/tone 5.wav", None, {"number": 5})
    assert str(served.folder) not in http.get(f"/sounds/{ids_of(served)[5]}").text


def test_the_spectrogram_is_a_picture_with_the_tone_at_its_place(http, served):
    path = f"/spectrogram/{ids_of(served)[3]}.png"
    answer = http.get(path, params={"width": 300, "height": 100})
    assert answer.headers["content-type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"), float)
    assert picture.shape == (100, 300)
    mel = 800 * 3 / 200  # of 800 Hz, on the linear part of Slaney's scale; 4 kHz is 35.2
    assert picture.mean(1).argmax() == pytest.approx(100 - 100 * mel / 35.16, abs=3)
    again = http.get(path, params={"width": 300, "height": 100, "start_s": 0.5, "duration_s": 0.25})
    assert again.status_code == 200 and again.content != answer.content


def test_health_metrics_and_description(http, served):
    told = http.get("/healthz").json()
    assert (told["status"], told["rows"], told["space_id"]) == ("ok", 6, served.clap.space_id)
    assert told["dimension"] == served.clap.dimension
    http.get("/search", params={"text": "rain"})
    page = http.get("/metrics").text
    assert 'clapkit_requests_total{route="/search",status="200"}' in page
    assert "clapkit_index_rows 6.0" in page
    assert "clapkit_requests_under_way 1.0" in page  # the one for /metrics itself
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/search", "/embed", "/classify", "/similar/{id}", "/audio/{id}", "/spectrogram/{id}.png"} <= paths.keys()
    docs = http.get("/docs").text
    assert all(path in docs for path in paths)
    assert "http" not in docs and "<script" not in docs
