"""A tiny model over an index of a few tones, and servers of it on the loopback."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
RATE_HZ = 8000


@dataclass(frozen=True)
class Served:
    """What the servers of these tests serve."""

    folder: Path
    files: list[Path]
    index: Any
    clap: Any


@pytest.fixture(scope="session")
def served(tiny_run, tmp_path_factory) -> Served:
    """Six tones in two folders, indexed with a tiny model, beside a file that is not indexed."""
    import soundfile

    import clapkit
    from clapkit.search.exact import ExactIndex

    folder = tmp_path_factory.mktemp("served")
    clap = clapkit.load(tiny_run.path, device="cpu")
    rng = np.random.default_rng(7)
    files = []
    for number in range(6):
        path = folder / "sounds" / ("high" if number % 2 else "low") / f"tone {number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch_hz = 200 * (number + 1)
        tone = 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(RATE_HZ) / RATE_HZ) + 0.02 * rng.standard_normal(RATE_HZ)
        soundfile.write(path, tone, RATE_HZ)
        files.append(path)
    (folder / "sounds" / "secret.txt").write_text("do not read", encoding="utf-8")
    soundfile.write(folder / "not-indexed.wav", np.zeros(800), RATE_HZ)
    index = ExactIndex.create(
        folder / "index", space_id=clap.space_id, pipeline_id=clap.pipeline_id, dimension=clap.dimension
    )
    about = [{"path": str(file), "duration_s": 1.0, "number": n} for n, file in enumerate(files)]
    index.add([str(file) for file in files], clap.embed_audio(files), about)
    index.save()
    return Served(folder, files, index, clap)


@contextmanager
def running(app, limits):
    """The address of a server in a thread, while the block lasts."""
    from clapkit.server.run import server_of

    server = server_of(app, limits=limits, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        give_up = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < give_up, "the server did not start"
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


@dataclass(frozen=True)
class Windows:
    """The sounds of `served` by windows, in a store: its folder, what it holds, and the vectors [N, D]."""

    place: Path
    rows: list[Any]
    vectors_ND: np.ndarray

    def found(self, kept=lambda row: True):
        """Ids, and vectors, of the rows that are to be compared."""
        places = [n for n, row in enumerate(self.rows) if kept(row)]
        return [self.rows[n].id for n in places], self.vectors_ND[places]


def make_windows(served, place) -> Windows:
    """A store at `place`, with tags and metadata that differ from file to file."""
    pytest.importorskip("lancedb")
    from clapkit.search.rows import Row
    from clapkit.search.store import Store

    rows, vectors = [], []
    for result in served.clap.embed_each(served.files):
        number, file = result.index, served.files[result.index]
        for n, start_s in enumerate(result.starts_s):
            long_s = min(result.window_s, result.duration_s - start_s)
            tags = ("tone", "even" if number % 2 == 0 else "odd")
            about = {"number": number, "label": f"tone {number}"}
            rows.append(Row(file.as_posix(), n, start_s, long_s, f"hash{number}", "pipe", tags=tags, metadata=about))
        vectors.append(result.windows_WD)
    about = {"space_id": served.clap.space_id, "pipeline_id": served.clap.pipeline_id}
    with Store.create(place, **about, dimension=served.clap.dimension, dtype="float32") as store:
        store.add(rows, np.concatenate(vectors))
    return Windows(place, rows, np.concatenate(vectors))


@pytest.fixture(scope="session")
def windows(served, tmp_path_factory) -> Windows:
    """A store that nobody changes."""
    return make_windows(served, tmp_path_factory.mktemp("windows") / "library")


@pytest.fixture
def library(served, tmp_path) -> Windows:
    """A store that may be changed."""
    return make_windows(served, tmp_path / "library")


@pytest.fixture(scope="session")
def store_url(serve, windows):
    """A server of `windows` with the limits that it has of itself."""
    from clapkit.search.store import Store
    from clapkit.server.rows import StoreRows

    with serve(index=StoreRows(Store.open(windows.place))) as address:
        yield address


@pytest.fixture
def store_http(store_url):
    """A client of that server."""
    httpx = pytest.importorskip("httpx2")
    with httpx.Client(base_url=store_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def serve(served):
    """`with serve(api_key=..., body_bytes=...) as url:` a server of `served`; other words are limits."""
    from clapkit.server.app import create_app
    from clapkit.server.limits import Limits
    from clapkit.server.rows import ExactRows

    @contextmanager
    def start(*, api_key=None, roots=(), clap=None, index=None, model_of=None, **limits):
        bounds = Limits(**limits)
        rows = index or ExactRows(served.index)
        how = {"api_key": api_key, "roots": roots, "model_of": model_of}
        app = create_app(rows, clap or served.clap, limits=bounds, **how)
        with running(app, bounds) as url:
            yield url

    return start


@pytest.fixture(scope="session")
def url(serve):
    """A server with the limits that it has of itself."""
    with serve() as address:
        yield address


@pytest.fixture
def http(url):
    """A client of that server."""
    httpx = pytest.importorskip("httpx2")
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client
