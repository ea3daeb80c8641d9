"""clapkit serve, as a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading

import httpx2 as httpx
import numpy as np
import pytest
import soundfile

import clapkit as library


@pytest.fixture(scope="module")
def index(tiny_run, tmp_path_factory):
    """An index of two tones; a third file was deleted since."""
    folder = tmp_path_factory.mktemp("served-index")
    paths = []
    for pitch_hz in (300, 900, 1500):
        paths.append(str(folder / f"{pitch_hz}.wav"))
        soundfile.write(paths[-1], 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(8000) / 8000), 8000)
    clap = library.load(tiny_run.path, device="cpu")
    library.Index.build(folder / "index", clap, paths)
    os.remove(paths[-1])
    return folder / "index"


def test_it_serves_until_it_is_told_to_stop(index):
    words = [sys.executable, "-m", "clapkit", "serve", str(index), "--port", "0", "--max-sound-s", "0.5"]
    environment = os.environ | {"CLAPKIT_API_KEY": "sesame"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    stop = threading.Timer(90, process.kill)
    stop.start()
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"3 sounds at (http://127\.0\.0\.1:\d+)", line):
                break
        assert found, "".join(said)
        assert "1 of 3 indexed files are not where they were" in " ".join("".join(said).split())
        with httpx.Client(base_url=found[1], headers={"X-API-Key": "sesame"}, timeout=30) as client:
            hits = client.get("/search", params={"text": "rain"}).json()["results"]
            assert {hit["name"] for hit in hits} == {"300.wav", "900.wav", "1500.wav"}
            with open(index.parent / "300.wav", "rb") as sound:
                assert client.post("/search", files={"sound": sound}).status_code == 413
            assert httpx.get(found[1] + "/search", params={"text": "rain"}).status_code == 401
    finally:
        stop.cancel()
        process.terminate()
        process.communicate(timeout=30)


def test_what_cannot_be_served_is_said_before_anything_listens(clapkit, index, tmp_path):
    for words, told in (
        ((tmp_path / "none",), "does not exist"),
        ((tmp_path,), "holds no store.json"),
        ((index, "--root", tmp_path / "none"), "is no folder"),
        ((index, "--api-key", " "), "API key is empty"),
        ((index, "--max-sound-s", "inf"), "sound_s is inf"),
    ):
        outcome = clapkit("serve", *words, "--port", "0")
        assert outcome.exit_code == 2, outcome.output
        assert told in " ".join(outcome.stderr.split())


def test_a_store_is_served_with_the_model_that_is_named(clapkit, tiny_run, index, tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    from clapkit.search.rows import Row
    from clapkit.search.store import Store

    clap = library.load(tiny_run.path, device="cpu")
    about = {"space_id": clap.space_id, "pipeline_id": clap.pipeline_id, "dimension": clap.dimension}
    with Store.create(tmp_path / "store", **about) as store:
        row = Row((index.parent / "300.wav").as_posix(), 0, 0.0, 1.0, "hash", "pipe")
        store.add([row], clap.embed_audio([index.parent / "300.wav"]))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    outcome = clapkit("serve", tmp_path / "store", "--model", tiny_run.path, "--port", "0")
    assert outcome.exit_code == 0 and "1 sounds at http" in outcome.stderr, outcome.output
    outcome = clapkit("serve", tmp_path / "store", "--port", "0")
    assert outcome.exit_code == 2 and "--model RUN" in outcome.stderr


def test_a_library_that_is_switched_to_another_model_is_served_on(clapkit, tiny_run, index, tmp_path):
    """As people do it: a library is served, `clapkit index` embeds it anew and switches, and clients ask all along."""
    pytest.importorskip("lancedb")
    torch = pytest.importorskip("torch")
    clap = library.load(tiny_run.path, device="cpu")
    with torch.no_grad():
        for weights in clap.model.parameters():
            weights.mul_(1.05)
    second = clap.save(tmp_path / "second")
    first = library.load(tiny_run.path, device="cpu").space_id
    sounds = [index.parent / f"{pitch_hz}.wav" for pitch_hz in (300, 900)]
    made = clapkit("index", *sounds, "--model", tiny_run.path, "--out", tmp_path / "lib")
    assert made.exit_code == 0, made.output
    words = [sys.executable, "-m", "clapkit", "serve", str(tmp_path / "lib"), "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    stop = threading.Timer(120, process.kill)
    stop.start()
    answers = []
    try:
        found = next(found for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()

        def asked():
            answer = httpx.get(found[0] + "/search", params={"text": f"rain {len(answers)}"}, timeout=30)
            answers.append((answer.status_code, answer.json().get("space_id")))
            return answers[-1]

        assert asked() == (200, first) and first != second
        switched = threading.Thread(
            target=lambda: outcomes.append(clapkit("index", tmp_path / "lib", "--switch-model", tmp_path / "second"))
        )
        outcomes = []
        switched.start()
        while asked()[1] == first and process.poll() is None:
            assert switched.is_alive() or outcomes[0].exit_code == 0, outcomes[0].output
        switched.join()
        assert set(answers) == {(200, first), (200, second)} and asked() == (200, second)
    finally:
        stop.cancel()
        process.terminate()
        process.wait(30)


def test_the_packages_that_are_missing_are_named(clapkit, index, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    outcome = clapkit("serve", index)
    assert outcome.exit_code == 2
    assert 'pip install "clapkit[serve]"' in " ".join(outcome.stderr.split())


def test_an_open_server_on_all_addresses_is_warned_of(clapkit, index, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    assert "no --api-key is set" in " ".join(clapkit("serve", index, "--host", "0.0.0.0", "--port", "0").stderr.split())
    assert "warning" not in clapkit("serve", index, "--port", "0").stderr


def test_whoever_reads_the_address_can_connect_at_once(clapkit, index, monkeypatch):
    reached = []

    def before_it_runs(_, sockets):
        with socket.create_connection(sockets[0].getsockname()[:2], timeout=5):
            reached.append(True)

    monkeypatch.setattr("uvicorn.Server.run", before_it_runs)
    assert clapkit("serve", index, "--port", "0").exit_code == 0 and reached == [True]
