"""A folder of files that stand for sounds, and an embedder of them that needs no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.search.rows import content_hash
from clapkit.search.store import Store
from clapkit.search.sync import FileVectors, Unusable

WIDTH = 8


def vector_of(path: str, salt: int = 0, width: int = WIDTH) -> np.ndarray:
    """Two windows [2, width] that depend on the content alone."""
    seed = int(content_hash(path)[:8], 16) + salt
    return np.random.default_rng(seed).standard_normal((2, width))


class Embedder:
    """Remembers what it was asked for; refuses files that begin with BAD."""

    def __init__(self, salt: int = 0, width: int = WIDTH, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.salt, self.width, self.stop_after = salt, width, stop_after

    def __call__(self, files):
        for number, file in enumerate(files):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(Path(file).name)
            if Path(file).read_bytes().startswith(b"BAD"):
                yield Unusable(file, "no sound in it")
            else:
                yield FileVectors(file, vector_of(file, self.salt, self.width), (0.0, 1.0), (1.0, 1.0))


@pytest.fixture(name="vector_of")
def _vector_of():
    return vector_of


@pytest.fixture
def make_embedder():
    return Embedder


@pytest.fixture
def embedder():
    return Embedder()


@pytest.fixture
def sounds(tmp_path) -> Path:
    """Six files in two folders, a hidden one, and a text."""
    folder = tmp_path / "sounds"
    (folder / "sub").mkdir(parents=True)
    for n in range(6):
        (folder / ("sub" if n % 2 else ".") / f"s{n}.wav").write_bytes(b"sound %d" % n)
    (folder / ".hidden.wav").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no sound", encoding="utf-8")
    return folder


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "lib", space_id="a", pipeline_id="p", dimension=WIDTH, dtype="float32") as store:
        yield store
