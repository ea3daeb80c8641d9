"""Every limit of the server: the status, the message with the figure, and that others are served meanwhile."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
import soundfile

import clapkit
from clapkit.errors import ClapkitError, SearchIndexError, SpaceMismatchError, SpecError
from clapkit.server.app import create_app
from clapkit.server.limits import Limits
from clapkit.server.rows import ExactRows
from clapkit.server.workers import Staff


def refused(answer, status, *words):
    """Check the shape of a refusal; its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type"}
    for word in words:
        assert word in error["message"]
    return error["message"]


def wav(samples, rate_hz=8000, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def address_of(url):
    parts = urlsplit(url)
    return parts.hostname, parts.port


class Slow:
    """A model whose encoders wait until they are let go; otherwise the one of `served`."""

    def __init__(self, clap):
        self._clap = clap
        self.go = threading.Event()

    def __getattr__(self, name):
        return getattr(self._clap, name)

    def embed_text(self, texts):
        assert self.go.wait(20)
        return self._clap.embed_text(texts)

    def embed_audio(self, sources):
        assert self.go.wait(20)
        return self._clap.embed_audio(sources)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"text": "rain", "k": "0"}, ("k is 0", "1 to 500")),
        ({"text": "rain", "k": "-3"}, ("k is -3",)),
        ({"text": "rain", "k": str(10**9)}, ("k is 1000000000", "500")),
        ({"text": "rain", "k": "9" * 400}, ("1 to 500",)),
        ({"text": "rain", "k": "9" * 5000}, ("k",)),
        ({"text": "rain", "k": "many"}, ("k", "integer")),
        ({"text": ""}, ("text is empty",)),
        ({"text": " \t\u200b "}, ("text is empty",)),
        ({}, ("nothing to look for",)),
        ({"text": "rain " * 10_000}, ("10000 words", "2000 characters")),
        ({"text": "ra\x00in"}, ("U+0000", "position 2")),
        ({"text": "ra\x1b[31min"}, ("U+001B",)),
        ({"text": "ra\ufffdin"}, ("not valid UTF-8 at position 2",)),
        ({"text": "rain", "k": ["1", "2"]}, ("'k' comes 2 times",)),
        ({"text": "rain", "without": ""}, ("without is empty",)),
    ],
)
def test_queries_that_are_none(http, params, words):
    refused(http.get("/search", params=params), 422, *words)


def test_embedding_requests_that_are_none(http):
    for body, words in (
        ({"input": []}, ("input",)),
        ({"input": "x" * 2001}, ("2001 characters",)),
        ({"input": ["a"] * 257}, ("257 texts", "256")),
        ({"input": [[1, 2]]}, ("input",)),
        ({"input": "rain", "dimensions": 7}, ("dimensions is 7", "16")),
        ({"input": "rain", "extra": 1}, ("extra",)),
        ({"input": "rain", "encoding_format": "int8"}, ("encoding_format",)),
    ):
        refused(http.post("/embed", json=body), 422, *words)
    json = {"Content-Type": "application/json"}
    refused(http.post("/embed", content=b'{"input": "\\ud800"}', headers=json), 422)
    for broken in (b"", b"{", b"[1]", b'{"input": "\xff"}', b"[" * 100_000):
        refused(http.post("/embed", content=broken, headers=json), 422, "the JSON cannot be used")
    refused(
        http.post("/embed", content=b"rain", headers={"Content-Type": "text/plain"}),
        415,
        "text/plain",
        "application/json",
    )
    refused(http.get("/search?text=%ff%fe"), 422, "not valid UTF-8")


def test_classification_requests_that_are_none(http, served):
    sound = {"sound": served.files[0].read_bytes()}
    for files, data, status, words in (
        (sound, {}, 422, ("0 labels",)),
        (sound, {"labels": ["a", ""]}, 422, ("label 2 is empty",)),
        (sound, {"labels": ["a"] * 1001}, 422, ("1001 labels",)),
        (sound, {"labels": ["a"], "id": "x"}, 422, ("once",)),
        ({"labels": (None, "a")}, {}, 422, ("once",)),
        ({"labels": (None, "a"), "id": (None, "unknown")}, {}, 404, ("'unknown'",)),
        (sound, {"labels": ["a"], "template": "no place"}, 422, ("no place",)),
        (sound, {"labels": ["b" * 1999], "template": "{}" * 500}, 422, ("template and label",)),
        (sound, {"labels": ["a"], "top_k": "0"}, 422, ("top_k is 0",)),
        (sound, {"label": ["a"]}, 422, ("no field 'label'", "did you mean 'labels'")),
    ):
        refused(http.post("/classify", files=files, data=data), status, *words)


def test_sounds_that_are_none(http):
    long_s = 130
    bomb = wav(np.zeros(8000 * long_s), kind="FLAC")
    assert len(bomb) < 50_000
    for sound, status, words in (
        (b"", 422, ("empty",)),
        (b"just a text, and no sound at all", 422, ("not a known sound",)),
        (wav(np.zeros(800))[:20], 422, ()),
        (wav(np.full(800, np.nan), subtype="FLOAT"), 422, ()),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(500), 422, ()),
        (bomb, 413, ("longer than 120 s",)),
    ):
        refused(http.post("/search", files={"sound": sound}), status, *words)
        refused(http.post("/embed", files={"sound": sound}), status, *words)


def test_forms_that_are_none(http, served):
    sound = served.files[0].read_bytes()
    refused(http.post("/search", files={"k": (None, "3")}), 422, "nothing to look for")
    refused(http.post("/search", files={"file": sound}), 422, "called 'file'")
    refused(http.post("/search", files={"sound": (None, "text")}), 422, "has to be a file")
    refused(http.post("/search", files={"sound": sound}, data={"k": "x"}), 422, "k is 'x'")
    refused(http.post("/search", files={"sound": sound}, data={"k": "9" * 5000}), 422)
    refused(http.post("/search", files={"sound": sound}, data={"words": ["a", "b"]}), 422, "'words' comes 2 times")
    refused(http.post("/search", files=[("sound", sound), ("sound", sound)]), 400, "Too many files")
    refused(http.post("/search", json={"text": "rain"}), 415, "multipart/form-data")


def test_the_figure_of_a_spectrogram(http, served):
    id = http.get("/search", params={"text": "rain", "k": 1}).json()["results"][0]["id"]
    for params, words in (
        ({"width": 0}, "width is 0"),
        ({"height": 10**6}, "height is 1000000"),
        ({"start_s": "-1"}, "start_s is -1"),
        ({"start_s": "nan"}, "start_s is nan"),
        ({"duration_s": "0"}, "duration_s is 0"),
        ({"duration_s": "inf"}, "duration_s is inf"),
        ({"start_s": 1e7}, "the sound cannot be used"),
        ({"start_s": 1e9}, "start_s is 1000000000.0"),
        ({"start_s": 1e300}, "start_s is 1e+300"),
    ):
        refused(http.get(f"/spectrogram/{id}.png", params=params), 422, words)
    assert http.get(f"/spectrogram/{id}.png", params={"duration_s": 1e9, "width": 4096}).status_code == 200


def test_pictures_that_are_kept_are_bounded_in_bytes(serve, monkeypatch):
    """However large they are asked for: the last ones are kept, as many as fit."""
    from clapkit.server import desk, house

    made = []
    monkeypatch.setattr(house, "Staff", lambda *told: made.append(Staff(*told)) or made[-1])
    monkeypatch.setattr(desk, "_PICTURES_BYTES", 20_000)
    with serve() as url, httpx.Client(base_url=url) as client:
        id = client.get("/search", params={"text": "rain", "k": 1}).json()["results"][0]["id"]
        sizes = [
            len(client.get(f"/spectrogram/{id}.png", params={"width": width, "height": 64}).content)
            for width in (40, 60, 80, 100, 900, 50, 70)
        ]
        assert sizes[4] > 20_000, "one alone is too large to be kept, and comes all the same"
        assert [len(kept) for kept in made[0].pictures.values()] == sizes[5:]


def test_too_large_bodies_are_refused_by_length_and_by_count(serve, served):
    with serve(body_bytes=20_000) as url, httpx.Client(base_url=url) as client:
        small, large = served.files[0].read_bytes(), bytes(50_000)
        assert len(small) < 20_000
        assert client.post("/search", files={"sound": small}).status_code == 200
        refused(client.post("/search", files={"sound": large}), 413, "at most 20000 bytes")
        start = b'--x\r\nContent-Disposition: form-data; name="sound"; filename="x"\r\n\r\n'
        pieces = (start if n == 0 else large[n : n + 5000] for n in range(0, len(large), 5000))  # no Content-Length
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        refused(client.post("/search", content=pieces, headers=form), 413, "at most 20000 bytes")
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 2147483648\r\nExpect: 100-continue\r\n\r\n"
        with socket.create_connection(address_of(url), timeout=10) as asked_first:
            asked_first.sendall(head)
            assert asked_first.recv(100).startswith(b"HTTP/1.1 413 ")
        assert client.get("/search", params={"text": "rain"}).status_code == 200


def test_all_bodies_together_are_bounded(serve):
    with serve(bodies_bytes=30_000) as url, socket.create_connection(address_of(url), timeout=10) as holding:
        holding.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n")
        holding.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n" + bytes(20))
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        refused(httpx.post(url + "/search", content=bytes(40_000), headers=form), 429, "being uploaded")
        assert httpx.get(url + "/search", params={"text": "rain"}).status_code == 200


def test_a_body_that_does_not_come(serve):
    with serve(body_s=0.3) as url, socket.create_connection(address_of(url), timeout=10) as slow:
        slow.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
        )
        began = time.monotonic()
        answer = b""
        while piece := slow.recv(1000):  # to the end: the connection is closed
            answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ") and b"within 0.3 s" in answer
        assert time.monotonic() - began < 5


def test_heads_that_do_not_come_block_nobody(serve):
    with serve(head_s=0.5, connections=40) as url, contextlib.ExitStack() as held:
        slow = [held.enter_context(socket.create_connection(address_of(url), timeout=10)) for _ in range(60)]
        for number, loris in enumerate(slow):
            loris.sendall(b"GET /healthz HT"[: number % 16])
        time.sleep(0.3)
        with contextlib.suppress(OSError):
            for loris in slow:
                loris.sendall(b"x")  # a little more does not buy more time
        time.sleep(0.6)
        assert httpx.get(url + "/search", params={"text": "rain"}).status_code == 200
        with httpx.Client(base_url=url) as kept:  # a kept connection may ask again later
            for _ in range(2):
                assert kept.get("/healthz").status_code == 200


def test_a_client_that_takes_nothing_of_its_answer(serve, served, tmp_path):
    from clapkit.search.exact import ExactIndex

    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(20_000_000), 8000)
    about = {"space_id": served.clap.space_id, "pipeline_id": served.clap.pipeline_id}
    index = ExactIndex.create(tmp_path / "index", **about, dimension=served.clap.dimension)
    index.add(["a"], np.ones((1, served.clap.dimension)), [{"path": str(path)}])
    index.save()
    with serve(index=ExactRows(index), send_s=0.3) as url:
        asked = httpx.get(url + "/search", params={"text": "rain"}).json()["results"][0]["audio"]
        with socket.create_connection(address_of(url), timeout=10) as idle:
            idle.sendall(f"GET {asked} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(1.2)
            assert "clapkit_requests_under_way 1.0" in httpx.get(url + "/metrics").text  # the one for /metrics
            got = 0
            with contextlib.suppress(ConnectionError):
                while piece := idle.recv(1 << 20):
                    got += len(piece)
            assert got < path.stat().st_size
        assert len(httpx.get(url + asked).content) == path.stat().st_size


def test_an_answer_that_takes_too_long(serve, served):
    slow = Slow(served.clap)
    with serve(clap=slow, answer_s=0.3) as url:
        refused(httpx.get(url + "/search", params={"text": "rain"}), 503, "within 0.3 s")
        slow.go.set()
        assert httpx.get(url + "/search", params={"text": "bell"}).status_code == 200


def test_requests_at_once_of_one_client_and_of_all(serve, served):
    for limits, words in (
        ({"requests_per_client": 3}, "more than 3 requests of yours"),
        ({"requests": 3}, "more than 3 requests"),
        ({"texts_waiting": 3}, "3 texts wait"),
    ):
        slow = Slow(served.clap)
        with serve(clap=slow, **limits) as url, ThreadPoolExecutor(8) as threads:
            asked = [
                threads.submit(httpx.get, url + "/search", params={"text": f"rain {n}"}, timeout=30) for n in range(6)
            ]
            late = list(islice(as_completed(asked, timeout=30), 3))  # the others wait for their texts
            for future in late:
                refused(future.result(), 429, words)
                assert future.result().headers["retry-after"]
            assert httpx.get(url + "/healthz").status_code == 200
            slow.go.set()
            assert sorted(future.result().status_code for future in asked) == [200] * 3 + [429] * 3


def test_connections_at_once(serve):
    with serve(connections=5) as url, contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(socket.create_connection(address_of(url), timeout=10)).sendall(b"GET /sea")
        answer = httpx.get(url + "/search", params={"text": "rain"})
        refused(answer, 429, "more than 5 connections")
        assert answer.headers["retry-after"] == "1"
        assert httpx.get(url + "/healthz").status_code == 200
        held.close()
        give_up = time.monotonic() + 10
        while httpx.get(url + "/search", params={"text": "rain"}).status_code != 200:
            assert time.monotonic() < give_up


def test_sounds_at_once(serve, served):
    slow, sound = Slow(served.clap), {"sound": served.files[0].read_bytes()}
    with serve(clap=slow, decoders=1, sounds_waiting=0) as url, ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(httpx.post, url + "/search", files=sound, timeout=30) for _ in range(5)]
        time.sleep(2)
        slow.go.set()
        told = [future.result() for future in asked]
        assert {answer.status_code for answer in told} == {200, 429}
        late = next(answer for answer in told if answer.status_code == 429)
        refused(late, 429, "sounds wait already")
        assert late.headers["retry-after"] == "2"
        assert httpx.post(url + "/search", files=sound).status_code == 200


def test_the_key(serve, served):
    with serve(api_key="open sesame ä") as url, httpx.Client(base_url=url) as client:
        asked = {"params": {"text": "rain"}}
        for headers in (
            {},
            {"X-API-Key": "open sesame"},
            {"X-API-Key": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Basic open"},
        ):
            answer = client.get("/search", **asked, headers=headers)
            refused(answer, 401, "key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/openapi.json", "/docs", "/audio/x", "/nothing"):
            assert client.get(path).status_code == 401
        assert client.get("/healthz").status_code == 200
    with serve(api_key="sesame") as url, httpx.Client(base_url=url) as client:
        for headers in (
            {"X-API-Key": "sesame"},
            {"Authorization": "Bearer sesame"},
            {"Authorization": "bearer  sesame"},
        ):
            assert client.get("/search", **asked, headers=headers).status_code == 200


def test_what_cannot_be_served(served, tmp_path):
    rows = ExactRows(served.index)
    with pytest.raises(ClapkitError, match="API key is empty"):
        create_app(rows, served.clap, api_key=" ")
    with pytest.raises(SearchIndexError, match="nowhere"):
        create_app(rows, served.clap, roots=[tmp_path / "nowhere"])

    class Other(ExactRows):
        space_id = "space-of-another"

    with pytest.raises(SpaceMismatchError, match="space-of-another"):
        create_app(Other(served.index), served.clap)


@pytest.mark.parametrize(
    ("limit", "value", "wanted"),
    [
        ("results", 0, "at least 1"),
        ("answer_s", 0.0, "above 0"),
        ("window_s", -0.1, "at least 0"),
        ("sound_s", float("inf"), "finite"),
    ],
)
def test_limits_that_are_none(limit, value, wanted):
    with pytest.raises(SpecError, match=f"{limit} is {value}.*{wanted}"):
        Limits(**{limit: value})


def test_a_model_without_words_says_so(serve, served):
    class Wordless(Slow):
        def embed_text(self, texts):
            raise clapkit.errors.TextTowerError("this model has no language side")

    with serve(clap=Wordless(served.clap)) as url:
        refused(httpx.get(url + "/search", params={"text": "rain"}), 422, "no language side")


def test_a_surprise_is_a_500_without_its_words(serve, served):
    class Broken(ExactRows):
        def search(self, queries_QD, k):
            raise RuntimeError("private words")

    with serve(index=Broken(served.index)) as url:
        answer = httpx.get(url + "/search", params={"text": "rain"})
        assert "private" not in refused(answer, 500, "its log has the reason")
        assert httpx.get(url + "/healthz").status_code == 200
