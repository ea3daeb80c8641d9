"""Parquet files and saved datasets, written here with pyarrow in the form that the datasets library gives them."""

from __future__ import annotations

import json
import sys

import pytest

from clapkit.data import manifest as manifests
from clapkit.data.manifest import read
from clapkit.errors import DataError, MissingExtraError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "audio": {"_type": "Audio"},
    "label": {"names": ["dog", "sea_waves"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["loud", "soft"], "_type": "ClassLabel"}, "_type": "Sequence"},
}


def table(sounds, labels, tags=None, features=FEATURES):
    columns = {"audio": pa.array(sounds, AUDIO), "label": pa.array(labels, pa.int64())}
    columns["tags"] = pa.array(tags or [[0]] * len(labels), pa.list_(pa.int64()))
    described = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    return pa.table(columns).replace_schema_metadata(described)


def save_arrow(content, folder, name="data-00000-of-00001.arrow"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content)


def inside(*names):
    return [{"bytes": name.encode(), "path": name} for name in names]


def test_parquet_shards_hold_their_sound_labels_and_splits(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    parquet.write_table(table(inside("a.wav", "b.wav"), [0, 1], [[0, 1], []]), data / "train-00000-of-00002.parquet")
    parquet.write_table(table(inside("c.wav"), [-1]), data / "train-00001-of-00002.parquet")
    parquet.write_table(table(inside("d.wav"), [1]), data / "test-00000-of-00001-0123abcd.parquet")
    manifest = read(tmp_path, splits={"split": ["train"]})
    assert [(c.id, c.audio, c.label, c.split) for c in manifest] == [
        ("a.wav", b"a.wav", "dog", "train"),
        ("b.wav", b"b.wav", "sea waves", "train"),
        ("c.wav", b"c.wav", None, "train"),
    ]
    assert manifest.clips[0].tags == ("loud", "soft")
    assert [c.id for c in read(tmp_path, splits={"split": ["test"]})] == ["d.wav"]


def test_a_saved_dataset_with_and_without_splits(tmp_path):
    save_arrow(table(inside("a.wav"), [0]), tmp_path / "one", "data-00000-of-00002.arrow")
    save_arrow(table(inside("b.wav"), [1]), tmp_path / "one", "data-00001-of-00002.arrow")
    assert [(c.id, c.label, c.split) for c in read(tmp_path / "one")] == [
        ("a.wav", "dog", None),
        ("b.wav", "sea waves", None),
    ]
    save_arrow(table(inside("a.wav"), [0]), tmp_path / "all" / "train")
    save_arrow(table(inside("a.wav"), [0]), tmp_path / "all" / "test")
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    both = read(tmp_path / "all")
    assert {(c.id, c.split) for c in both} == {
        ("test/data-00000-of-00001.arrow row 1", "test"),  # the names inside collide, so rows are known by their place
        ("train/data-00000-of-00001.arrow row 1", "train"),
    }


def test_sound_inside_goes_before_a_path_beside_it_and_may_have_no_name(tmp_path):
    rows = table([{"bytes": b"x", "path": None}, {"bytes": b"y", "path": None}], [0, 1])
    rows = rows.append_column("path", pa.array(["gone.wav", "gone.wav"]))
    parquet.write_table(rows, tmp_path / "m.parquet")
    manifest = read(tmp_path / "m.parquet")
    assert [(c.id, c.audio, c.meta) for c in manifest] == [
        ("m.parquet row 1", b"x", {"path": "gone.wav"}),
        ("m.parquet row 2", b"y", {"path": "gone.wav"}),
    ]


def test_a_struct_with_a_path_alone_is_a_file_beside_the_table(tmp_path):
    (tmp_path / "a.wav").touch()
    parquet.write_table(table([{"bytes": None, "path": "a.wav"}], [0]), tmp_path / "m.parquet")
    assert read(tmp_path / "m.parquet").clips[0].audio == str(tmp_path / "a.wav")


def test_numbers_without_names_stay_numbers_and_are_pointed_out(tmp_path):
    parquet.write_table(table(inside("a.wav"), [7]), tmp_path / "far.parquet")
    parquet.write_table(table(inside("a.wav"), [1], features=None), tmp_path / "bare.parquet")
    for name, label in (("far", "7"), ("bare", "1")):
        manifest = read(tmp_path / f"{name}.parquet")
        assert manifest.clips[0].label == label
        assert "1 row(s): labels that are numbers" in manifest.report[0].warnings


def test_nothing_at_all_is_read_from_folder_names(tmp_path):
    """pyarrow would make a column `fold` of this path, and the manifest would have one more than its file."""
    path = tmp_path / "fold=1" / "m.parquet"
    path.parent.mkdir()
    parquet.write_table(table(inside("a.wav"), [0]), path)
    assert set(read(path).report[0].columns) == {"audio", "label", "tags"}


def test_faulty_shards_are_named_and_the_others_still_checked(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    parquet.write_table(table([{"bytes": None, "path": None}], [0]), tmp_path / "b.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    first, second = caught.value.problems
    assert "a.parquet: cannot be read" in first
    assert second.endswith("b.parquet row 1: the sound is named by a path or held as bytes, found nothing")


def test_sound_too_large_for_comfort_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_LARGE_BYTES", 4)
    parquet.write_table(table(inside("a.wav"), [0]), tmp_path / "m.parquet")
    assert "held in memory" in read(tmp_path / "m.parquet").report[0].warnings[0]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    parquet.write_table(table(inside("a.wav"), [0]), tmp_path / "m.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[train\]"):
        read(tmp_path / "m.parquet")
