"""A served store that changes: new rows appear, and another model takes over while clients ask."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2 as httpx
import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.errors import SearchIndexError
from clapkit.search.lock import readers_of
from clapkit.search.store import Store
from clapkit.server.rows import StoreRows

TEXTS = ("rain", "bell", "a dog barks", "siren far away")
SECOND = "space-of-the-second-model"


class Turned:
    """A model of another space: its vectors are those of `served`, turned. Scores with its own rows are the same."""

    def __init__(self, clap):
        self._clap = clap
        rng = np.random.default_rng(2)
        self.turn_DD = np.linalg.qr(rng.standard_normal((clap.dimension, clap.dimension)))[0].astype(np.float32)
        self.space_id = SECOND

    def __getattr__(self, name):
        return getattr(self._clap, name)

    def embed_text(self, texts):
        return self._clap.embed_text(texts) @ self.turn_DD

    def embed_audio(self, sources):
        return self._clap.embed_audio(sources) @ self.turn_DD


def until(check, *, seconds=60.0):
    """Wait for something to be so."""
    give_up = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < give_up, "it has not become so"
        time.sleep(0.05)


def rows_at(url):
    return httpx.get(url + "/healthz").json()["rows"]


def test_rows_that_are_written_are_served_soon(serve, library):
    with serve(index=StoreRows(Store.open(library.place)), refresh_s=0.1) as url, Store.open(library.place) as store:
        before = httpx.get(url + "/filters").json()
        later = replace(library.rows[0], file=library.rows[0].file.replace("tone 0", "tone 9"), tags=("new",))
        store.add([later], library.vectors_ND[:1])
        until(lambda: rows_at(url) == 19)
        hit = httpx.get(url + "/search", params={"text": "rain", "where": "tags=new"}).json()["results"][0]
        assert hit["id"] == later.id
        after = httpx.get(url + "/filters").json()
        assert (before["files"], after["files"]) == (6, 7) and {"tag": "new", "count": 1} in after["tags"]
        store.writer().forget([later.file])
        until(lambda: rows_at(url) == 18)
        assert httpx.get(url + f"/sounds/{later.id}").status_code == 404


def begin_second(store, library, turned):
    writer = store.begin_space(SECOND, pipeline_id="pipe", dimension=turned.dimension, dtype="float32")
    writer.add(library.rows, library.vectors_ND @ turned.turn_DD)


def test_another_model_takes_over_while_clients_ask(serve, served, library):
    """No request fails, each answer comes from one space, and nobody goes back to the old one."""
    turned = Turned(served.clap)
    vectors_TD = served.clap.embed_text(list(TEXTS))
    expected = {text: np.sort(library.vectors_ND @ v)[::-1][:5] for text, v in zip(TEXTS, vectors_TD, strict=True)}
    stop, spaces, wrong = threading.Event(), [], []

    def client(url, number):
        seen = []
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stop.is_set():
                text = TEXTS[(number + len(seen)) % len(TEXTS)]
                more = [{}, {"where": "tags=tone"}, {"variety": 0.0, "joined": "any"}][len(seen) % 3]
                answer = http.get("/search", params={"text": text, "k": 5, **more})
                if answer.status_code != 200:
                    wrong.append((answer.status_code, answer.text))
                    continue
                told = answer.json()
                seen.append(told["space_id"])
                scores = [hit["score"] for hit in told["results"]]
                if not np.allclose(scores, expected[text], atol=1e-4):
                    wrong.append((told["space_id"], text, scores))
        spaces.append(seen)

    with (
        serve(index=StoreRows(Store.open(library.place)), model_of=lambda rows: turned, refresh_s=0.1) as url,
        Store.open(library.place) as store,
        ThreadPoolExecutor(6) as threads,
    ):
        clients = [threads.submit(client, url, number) for number in range(6)]
        time.sleep(0.5)
        begin_second(store, library, turned)
        time.sleep(0.3)
        assert httpx.get(url + "/healthz").json()["space_id"] == served.clap.space_id  # begun, and not yet searched
        store.switch(SECOND)
        until(lambda: httpx.get(url + "/healthz").json()["space_id"] == SECOND)
        time.sleep(0.5)
        stop.set()
        for done in clients:
            done.result()
        assert httpx.post(url + "/embed", json={"input": "rain"}).json()["model"] == SECOND
    assert wrong == []
    for seen in spaces:
        turns = [a for a, b in itertools.pairwise(seen) if a != b]
        assert turns == [served.clap.space_id] and seen[-1] == SECOND
    assert min(Counter(itertools.chain(*spaces)).values()) > 10


def test_the_old_space_is_dropped_when_the_server_has_left_it(serve, served, library):
    """While the new model is loading and clients ask, `drop_space` waits; no request fails, and no mark is left."""
    turned, stop, statuses = Turned(served.clap), threading.Event(), Counter()
    old = served.clap.space_id

    def model_of(rows):
        time.sleep(2)
        return turned

    def client(url):
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stop.is_set():
                for path in (
                    "/search?text=rain&k=5",
                    "/search?text=rain&where=tags%3Dtone",
                    f"/similar/{library.rows[3].id}",
                ):
                    statuses[http.get(path).status_code] += 1

    with (
        serve(index=StoreRows(Store.open(library.place)), model_of=model_of, refresh_s=0.1) as url,
        Store.open(library.place) as store,
        ThreadPoolExecutor(4) as threads,
    ):
        clients = [threads.submit(client, url) for _ in range(3)]
        begin_second(store, library, turned)
        store.switch(SECOND)
        with pytest.raises(SearchIndexError, match=f"still read by process {os.getpid()}"):
            store.drop_space(old, patience_s=0.3)
        assert httpx.get(url + "/healthz").json()["space_id"] == old
        store.drop_space(old)
        assert httpx.get(url + "/healthz").json()["space_id"] == SECOND
        time.sleep(0.5)
        stop.set()
        for done in clients:
            done.result()
        assert readers_of(library.place, store.view.space.table) == [os.getpid()]
        assert httpx.get(url + "/search?text=rain&k=5").json()["space_id"] == SECOND
    assert statuses.keys() == {200} and statuses[200] > 20
    assert list((library.place / "readers").iterdir()) == []


def test_a_reader_that_has_died_holds_nothing(library):
    """Its mark is still there; its lock is not."""
    with Store.open(library.place) as store:
        table = store.view.space.table
        words = "import os, sys; from pathlib import Path; from clapkit.search.lock import ReaderMark\n"
        words += "mark = ReaderMark(Path(sys.argv[1]), sys.argv[2]); print('held', flush=True); sys.stdin.read()"
        reader = subprocess.Popen(
            [sys.executable, "-c", words, str(library.place), table],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout.readline() == "held\n"
        assert readers_of(library.place, table) == [reader.pid]
        reader.kill()
        reader.wait()
        assert len(list((library.place / "readers").iterdir())) == 1
        assert readers_of(library.place, table) == [] and list((library.place / "readers").iterdir()) == []


def test_a_request_that_has_begun_is_answered_from_where_it_began(serve, served, library):
    """Its text waits in the old encoder while the store is switched; the answer is one of the old space."""
    go, turned = threading.Event(), Turned(served.clap)

    class Slow(Turned):
        def __init__(self, clap):
            super().__init__(clap)
            self.space_id = clap.space_id

        def embed_text(self, texts):
            assert go.wait(30)
            return self._clap.embed_text(texts)

    slow = Slow(served.clap)
    with (
        serve(
            index=StoreRows(Store.open(library.place)), clap=slow, model_of=lambda rows: turned, refresh_s=0.1
        ) as url,
        Store.open(library.place) as store,
        ThreadPoolExecutor(1) as threads,
    ):
        early = threads.submit(httpx.get, url + "/search", params={"text": "rain", "k": 5}, timeout=30)
        time.sleep(0.2)
        begin_second(store, library, turned)
        store.switch(SECOND)
        until(lambda: httpx.get(url + "/healthz").json()["space_id"] == SECOND)
        late = httpx.get(url + "/search", params={"text": "rain", "k": 5}).json()
        assert not early.done() and late["space_id"] == SECOND
        go.set()
        told = early.result().json()
        assert told["space_id"] == served.clap.space_id
        scores = [hit["score"] for hit in late["results"]]
        assert [hit["score"] for hit in told["results"]] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("fault", ["no model", "a model of a third space", "a model that cannot be loaded"])
def test_a_model_that_cannot_be_had_leaves_the_old_space_served(serve, served, library, fault, caplog):
    turned = Turned(served.clap)

    def model_of(rows):
        if fault == "a model of a third space":
            turned.space_id = "space-of-a-third"
            return turned
        raise OSError("the disk is gone")

    how = {} if fault == "no model" else {"model_of": model_of}
    with (
        serve(index=StoreRows(Store.open(library.place)), refresh_s=0.1, **how) as url,
        Store.open(library.place) as store,
    ):
        begin_second(store, library, turned)
        store.switch(SECOND)
        until(lambda: "clapkit_renewals_failed_total 0.0" not in httpx.get(url + "/metrics").text)
        told = httpx.get(url + "/search", params={"text": "rain"}).json()
        assert told["space_id"] == served.clap.space_id and len(told["results"]) == 10
    reason = {"no model": SECOND, "a model of a third space": "space-of-a-third"}.get(fault, "the disk is gone")
    assert reason in caplog.text and "the old version stays" in caplog.text
