"""Changes of folders and manifests are told within seconds, and none of them is lost."""

from __future__ import annotations

import queue
import sys
import threading
import time

import pytest

pytest.importorskip("watchfiles")

from clapkit.errors import MissingExtraError
from clapkit.search.indexing.sources import list_sources, source_of
from clapkit.search.indexing.update import update
from clapkit.search.indexing.watching import changes

SOON_S = 30.0  # what takes one second, on a busy machine


@pytest.fixture
def watch():
    """`watch(sources, ...)` runs in a thread; the queue it returns gets an item for each change."""
    stop, threads = threading.Event(), []

    def begin(sources, work=lambda: None, **settings):
        told = queue.Queue()

        def listen():
            for _ in changes(sources, stop=stop, **settings):
                work()
                told.put(time.monotonic())

        threads.append(threading.Thread(target=listen))
        threads[-1].start()
        told.get(timeout=SOON_S)  # the watch stands
        return told

    yield begin
    stop.set()
    for thread in threads:
        thread.join(timeout=SOON_S)
        assert not thread.is_alive(), "the watch ends when it is told to"


def test_new_changed_moved_and_deleted_files_are_told_of(watch, sounds):
    told = watch([source_of(sounds)])
    (sounds / "sub" / "new.wav").write_bytes(b"new")
    told.get(timeout=SOON_S)
    (sounds / "s0.wav").write_bytes(b"changed")
    told.get(timeout=SOON_S)
    (sounds / "s2.wav").rename(sounds / "moved.wav")
    told.get(timeout=SOON_S)
    (sounds / "deep" / "er").mkdir(parents=True)
    told.get(timeout=SOON_S)
    (sounds / "deep" / "er" / "d.wav").write_bytes(b"in a folder that is new")
    told.get(timeout=SOON_S)


def test_the_library_itself_and_silence_are_not(watch, sounds):
    (sounds / "lib").mkdir()
    told = watch([source_of(sounds)], but=sounds / "lib")
    (sounds / "lib" / "data").write_bytes(b"of the library")
    with pytest.raises(queue.Empty):
        told.get(timeout=2.5)


def test_a_manifest_is_looked_at_and_all_is_looked_at_again_after_a_while(watch, sounds, tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("path\n", encoding="utf-8")
    told = watch([source_of(table)])
    table.write_text("path\nsounds/s0.wav\n", encoding="utf-8")
    told.get(timeout=SOON_S)
    told = watch([source_of(table)], again_s=0.5)
    told.get(timeout=SOON_S)


def test_what_changes_while_the_library_is_written_is_not_lost(watch, sounds, store, embedder):
    """Each round takes a while, and files come all the time: in the end every one is there, once."""

    def work():
        time.sleep(0.3)
        update(store, list_sources([source_of(sounds)]), embedder, pipeline_id="p")

    told = watch([source_of(sounds)], work)
    for n in range(30):
        (sounds / f"late{n}.wav").write_bytes(b"late %d" % n)
        time.sleep(0.05)
    until = time.monotonic() + SOON_S
    while len(store.refresh().files()) < 36 and time.monotonic() < until:
        told.get(timeout=SOON_S)
    assert len(store.refresh().files()) == 36 and len(store) == 72


def test_without_the_package_that_watches(monkeypatch, sounds):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[search\]"):
        next(changes([source_of(sounds)]))
