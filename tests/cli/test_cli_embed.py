"""clapkit embed and clapkit classify: the files they write, and what becomes of bad ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

import clapkit as library


@pytest.fixture
def mixed(sounds, tmp_path):
    """A folder with two sounds, one of them long, and two files that only look like sound."""
    folder = tmp_path / "ein Ordner ü"
    folder.mkdir()
    shutil.copy(sorted(sounds.glob("*.flac"))[0], folder / "good.flac")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(11 * 16000), 16000)
    (folder / "text.wav").write_text("this is no sound", encoding="utf-8")
    (folder / "empty.mp3").write_bytes(b"")
    return folder


def test_parquet_has_one_row_a_file(clapkit, run, sounds, tmp_path):
    out = tmp_path / "vectors.parquet"
    outcome = clapkit("embed", sounds, "--model", run, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 0 skipped" in outcome.stderr
    read = pyarrow.parquet.read_table(out)
    clap = library.load(run)
    assert read.schema.names == ["path", "start_s", "duration_s", "vector", "pipeline_id"]
    assert read.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), clap.dimension)
    rows = read.to_pydict()
    assert rows["path"] == sorted(str(p) for p in sounds.glob("*.flac"))
    assert rows["start_s"] == [0.0] * 4
    assert rows["duration_s"] == [4.0] * 4
    assert set(rows["pipeline_id"]) == {clap.pipeline_id}
    assert np.abs(np.array(rows["vector"]) - clap.embed_audio(rows["path"])).max() <= 1e-5
    assert json.loads((tmp_path / "vectors.parquet.failures.json").read_bytes()) == []


def test_npz_has_the_same_as_arrays(clapkit, run, sounds, tmp_path):
    clapkit("embed", sounds, "--model", run, "--out", tmp_path / "v.parquet")
    clapkit("embed", sounds, "--model", run, "--out", tmp_path / "v.npz")
    rows = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    arrays = np.load(tmp_path / "v.npz", allow_pickle=False)
    assert sorted(arrays) == sorted(rows)
    for name, values in rows.items():
        assert np.array_equal(arrays[name], np.array(values, arrays[name].dtype)), name


def test_windows_of_a_long_file(clapkit, run, mixed, tmp_path):
    clapkit("embed", mixed / "long.wav", "--model", run, "--out", tmp_path / "v.npz", "--windows")
    arrays = np.load(tmp_path / "v.npz")
    assert arrays["start_s"].tolist() == [0.0, 2.0, 4.0, 6.0, 7.0]  # 4 s every 2 s, the last one ends with the sound
    assert arrays["duration_s"].tolist() == [4.0] * 5
    assert np.allclose(np.linalg.norm(arrays["vector"], axis=1), 1.0, atol=1e-5)


def test_a_bad_file_costs_that_file(clapkit, run, mixed, tmp_path):
    out = tmp_path / "v.npz"
    words = ("embed", mixed, tmp_path / "gone.wav", "--model", run, "--out", out)
    outcome = clapkit(*words)
    assert outcome.exit_code == 0
    assert "2 embedded, 3 skipped" in outcome.stderr
    assert np.load(out)["path"].tolist() == [str(mixed / "good.flac"), str(mixed / "long.wav")]
    failures = json.loads((tmp_path / "v.npz.failures.json").read_bytes())
    assert {entry["path"] for entry in failures} == {
        str(mixed / "text.wav"), str(mixed / "empty.mp3"), str(tmp_path / "gone.wav")
    }  # fmt: skip
    for entry in failures:
        assert entry["reason"]
        assert entry["reason"][:40] in outcome.stderr
    assert clapkit(*words, "--strict").exit_code == 1


def test_nothing_worked(clapkit, run, mixed, tmp_path):
    outcome = clapkit("embed", mixed / "text.wav", "--model", run, "--out", tmp_path / "v.parquet")
    assert outcome.exit_code == 1
    assert "0 embedded, 1 skipped: nothing to write" in outcome.stderr
    assert not (tmp_path / "v.parquet").exists()
    assert len(json.loads((tmp_path / "v.parquet.failures.json").read_bytes())) == 1


def test_truncated_sound_is_embedded_with_a_note_or_skipped(clapkit, run, mixed, tmp_path):
    whole = (mixed / "long.wav").read_bytes()
    (mixed / "three_quarters.wav").write_bytes(whole[: len(whole) * 3 // 4])
    (mixed / "a_third.wav").write_bytes(whole[: len(whole) // 3])
    names = ("three_quarters.wav", "a_third.wav")
    outcome = clapkit("embed", *(mixed / name for name in names), "--model", run, "--out", tmp_path / "v.npz")
    assert "1 embedded, 1 skipped" in outcome.stderr
    noted, _, skipped = outcome.stderr.partition("skipped")
    assert "three_quarters.wav" in noted
    assert "a_third.wav" in skipped


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--out", "v.csv"), ".parquet or .npz"),
        (("--out", "v.npz", "--precision", "int3"), "'fp32' or 'bf16'"),
    ],
)
def test_settings_that_cannot_be(clapkit, run, sounds, words, told):
    outcome = clapkit("embed", sounds, "--model", run, *words)
    assert outcome.exit_code == 2
    assert told in outcome.stderr


def test_an_empty_folder_is_told(clapkit, run, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = clapkit("embed", tmp_path / "empty", "--model", run, "--out", tmp_path / "v.npz")
    assert outcome.exit_code == 2
    assert "hold no sound files" in outcome.stderr


def test_classify_agrees_with_the_library(clapkit, run, mixed, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("dog_bark\nrain\nsiren\n", encoding="utf-8")
    outcome = clapkit("classify", mixed, "--model", run, "--labels-file", labels, "--top-k", 2, "--json")
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert [entry["path"] for entry in found] == [str(mixed / "good.flac"), str(mixed / "long.wav")]
    expected = library.load(run).classify([e["path"] for e in found], ["dog_bark", "rain", "siren"], top_k=2)
    for entry, best in zip(found, expected, strict=True):
        assert [label["label"] for label in entry["labels"]] == [name for name, _ in best]
        assert [label["probability"] for label in entry["labels"]] == pytest.approx([p for _, p in best], abs=1e-5)
    assert "2 embedded, 2 skipped" in outcome.stderr


def test_classify_prints_a_table(clapkit, run, mixed):
    outcome = clapkit("classify", mixed / "good.flac", "--model", run, "--labels", "rain,wind", "--template", "{} here")
    assert outcome.exit_code == 0
    assert "best of 2 labels" in outcome.stdout
    assert "%" in outcome.stdout


def test_classify_without_labels_or_with_a_bad_template(clapkit, run, mixed):
    assert "--labels dog,cat,rain" in clapkit("classify", mixed, "--model", run).stderr
    bad = clapkit("classify", mixed / "good.flac", "--model", run, "--labels", "a,b", "--template", "no place")
    assert bad.exit_code == 2
    assert "no place" in bad.stderr
