"""clapkit shards, and training from what it wrote."""

from __future__ import annotations

import json

from clapkit.data import manifest


def test_a_manifest_becomes_shards_that_are_trained_on(clapkit, world, tmp_path):
    done = clapkit("shards", world, "--split", "split=train", "--out", tmp_path / "s", "--size-mb", "2")
    assert done.exit_code == 0, done.output
    assert "48 clips in " in done.stderr
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert len(names) > 1 and names[0] == "shard-000000.tar"
    whole = {c.id: c for c in manifest.read(world, splits={"split": ["train"]})}
    back = {c.id: c for c in manifest.read(tmp_path / "s")}
    assert list(back) == list(whole)
    for name, clip in back.items():
        assert (clip.captions, clip.label, clip.tags) == (whole[name].captions, whole[name].label, whole[name].tags)
    pattern = str(tmp_path / "s" / f"shard-{{000000..{len(names) - 1:06d}}}.tar")
    words = ("train", "soundworld", "--data", pattern, "--scale", "tiny", "--set", "train.steps=2")
    trained = clapkit(*words, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    assert json.loads((tmp_path / "run" / "data.json").read_bytes())["used"] == 48


def test_a_folder_that_holds_shards_is_not_written_into(clapkit, world, tmp_path):
    words = ("shards", world, "--split", "split=test_kinds", "--out", tmp_path / "s")
    assert clapkit(*words).exit_code == 0
    again = clapkit(*words)
    assert again.exit_code == 2 and "holds shards already" in again.stderr
