"""The embedding function in tables of LanceDB: sounds and texts are embedded as they are added and asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("lancedb")
pytest.importorskip("torch")

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import clapkit
from clapkit.adapters.lancedb import ClapkitEmbeddings
from clapkit.errors import DataError, SpaceMismatchError, SpecError

GOLDEN = Path(__file__).parent.parent / "golden" / "model_v1"


@pytest.fixture(scope="module")
def clap():
    return clapkit.load(GOLDEN)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder, found = tmp_path_factory.mktemp("tones"), []
    times = np.arange(16000) / 16000
    for n, pitch_hz in enumerate((200, 440, 900, 2000, 4000)):
        soundfile.write(folder / f"{n}.wav", 0.3 * np.sin(2 * np.pi * pitch_hz * times * (1 + times)), 16000)
        found.append(str(folder / f"{n}.wav"))
    return found


def function(**more) -> ClapkitEmbeddings:
    made = get_registry().get("clapkit").create(model=str(GOLDEN), **more)
    assert isinstance(made, ClapkitEmbeddings)
    return made


def test_a_table_of_sounds_asked_by_words_and_by_sound(clap, paths, tmp_path):
    made = function().settled()
    assert made.space_id == clap.space_id

    class Sound(LanceModel):
        path: str = made.SourceField()
        note: str
        vector: Vector(made.ndims()) = made.VectorField()

    table = lancedb.connect(tmp_path / "db").create_table("sounds", schema=Sound)
    table.add([{"path": path, "note": f"n{n}"} for n, path in enumerate(paths)])
    vectors = clap.embed_audio(paths)
    stored = np.array(table.to_arrow()["vector"].to_pylist())
    assert stored == pytest.approx(vectors, abs=1e-5)

    opened = lancedb.connect(tmp_path / "db").open_table("sounds")  # and its function with it
    for query, vector in (("a dog", clap.embed_text(["a dog"])[0]), (Path(paths[3]), vectors[3])):
        found = opened.search(query).distance_type("cosine").limit(3).to_list()
        best = np.argsort(-(vectors @ vector), kind="stable")[:3]
        assert [row["path"] for row in found] == [paths[n] for n in best]
        assert [1 - row["_distance"] for row in found] == pytest.approx((vectors @ vector)[best].tolist(), abs=1e-5)
    assert opened.search(Path(paths[2]).read_bytes()).limit(1).to_list()[0]["note"] == "n2"


def test_a_table_of_texts(clap, tmp_path):
    made = function(source="text")

    class Text(LanceModel):
        words: str = made.SourceField()
        vector: Vector(made.ndims()) = made.VectorField()

    texts = ["a dog barks", "rain on a roof", "a church bell"]
    table = lancedb.connect(tmp_path / "db").create_table("texts", schema=Text)
    table.add([{"words": text} for text in texts])
    assert np.array(table.to_arrow()["vector"].to_pylist()) == pytest.approx(clap.embed_text(texts), abs=1e-5)
    assert table.search("rain on a roof").limit(1).to_list()[0]["words"] == "rain on a roof"


def test_what_is_missing_or_broken_has_no_vector(clap, paths, tmp_path):
    (tmp_path / "no.wav").write_bytes(b"no sound")
    found = function().compute_source_embeddings([paths[0], None, str(tmp_path / "no.wav"), paths[1]])
    assert [vector is None for vector in found] == [False, True, True, False]
    assert found[3] == pytest.approx(clap.embed_audio([paths[1]])[0], abs=1e-5)


def test_what_does_not_fit_is_refused(clap):
    with pytest.raises(SpaceMismatchError, match="another-space") as caught:
        function(space_id="another-space").ndims()
    assert clap.space_id in str(caught.value)
    with pytest.raises(SpecError, match="'video'"):
        function(source="video").ndims()
    with pytest.raises(DataError, match="int"):
        function().compute_query_embeddings(7)
