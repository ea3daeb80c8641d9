"""clapkit tag, playlist, duplicates and collections: a library through the commands."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile

import clapkit as library

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def made(clapkit, run, world, tmp_path_factory):
    """A library of 24 sounds, a copy of one, one of them quieter, and one whose file is gone; the folder around it."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "sounds").mkdir()
    for path in sorted((world.parent / "audio" / "test").glob("*.flac"))[:24]:
        shutil.copy(path, folder / "sounds")
    paths = sorted((folder / "sounds").glob("*.flac"))
    shutil.copy(paths[0], folder / "sounds" / "copied.flac")
    samples, rate_hz = soundfile.read(paths[1])
    soundfile.write(folder / "sounds" / "quiet.flac", 0.3 * samples, rate_hz)
    shutil.copy(paths[2], folder / "sounds" / "zz gone.flac")
    outcome = clapkit("index", folder / "sounds", "--model", run, "--out", folder / "lib", "--workers", "1")
    assert outcome.exit_code == 0, outcome.output
    (folder / "sounds" / "zz gone.flac").unlink()
    (folder / "labels.txt").write_text("dog bark\nrain\train on a roof\nwater > wave\n", encoding="utf-8")
    return folder


def test_tags_in_every_form(clapkit, made, run, tmp_path):
    outcome = clapkit(
        "tag",
        made / "lib",
        "--labels",
        made / "labels.txt",
        "--out",
        tmp_path / "tags.csv",
        "--save-calibration",
        tmp_path / "calibration.json",
        "--write-sidecars",
        "--json",
    )
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert len(found) == 27
    assert sum(len(one["tags"]) for one in found) > 0
    with open(tmp_path / "tags.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tag"]]
    assert [(row["path"], row["tag"]) for row in rows] == [(o["path"], t["tag"]) for o in found for t in o["tags"]]
    assert "26 sidecar files written, 1 not" in outcome.stderr
    assert "zz gone.flac" in outcome.stderr
    beside = json.loads((made / "sounds" / "copied.flac.tags.json").read_bytes())
    assert beside["space_id"] == library.load(run).space_id
    again = clapkit(
        "tag", made / "lib", "--labels", made / "labels.txt", "--calibration", tmp_path / "calibration.json", "--json"
    )
    assert json.loads(again.stdout) == found


def test_tags_in_the_library_are_searched_for(clapkit, made):
    words = ("tag", made / "lib", "--labels", made / "labels.txt", "--threshold", "0.2", "--into-index")
    outcome = clapkit(*words)
    assert outcome.exit_code == 0, outcome.output
    assert "sounds changed in the library" in outcome.stderr
    assert "tags of 0 sounds changed" in clapkit(*words).stderr
    tagged = json.loads(
        clapkit("tag", made / "lib", "--labels", made / "labels.txt", "--threshold", "0.2", "--json").stdout
    )
    wanted = {one["path"] for one in tagged if any(tag["tag"] == "rain" for tag in one["tags"])}
    found = clapkit("search", made / "lib", "anything", "--where", "tags=rain", "-k", "50", "--json")
    assert {row["path"] for row in json.loads(found.stdout)} == wanted != set()
    assert clapkit("index", made / "lib").exit_code == 0  # forgets the file that is gone, and keeps the tags
    found = clapkit("search", made / "lib", "anything", "--where", "tags=rain", "-k", "50", "--json")
    assert {row["path"] for row in json.loads(found.stdout)} == {path for path in wanted if "zz gone" not in path}


def test_a_playlist_leaves_out_its_examples(clapkit, made, tmp_path):
    first, second = sorted((made / "sounds").glob("test-*.flac"))[:2]
    words = ("playlist", made / "lib", "--from", first, "--from", second, "--length", "8", "--smooth")
    outcome = clapkit(*words, "--text", "rain", "--out", tmp_path / "x.m3u8", "--json")
    assert outcome.exit_code == 0, outcome.output
    found = [row["path"] for row in json.loads(outcome.stdout)]
    assert len(found) == len(set(found)) == 8
    assert not {first.as_posix(), second.as_posix(), (made / "sounds" / "copied.flac").as_posix()} & set(found)
    lines = (tmp_path / "x.m3u8").read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[2::2]) == ("#EXTM3U", found)
    clapkit(*words, "--text", "rain", "--out", tmp_path / "x.json")
    assert [row["path"] for row in json.loads((tmp_path / "x.json").read_bytes())] == found


def test_a_sound_from_elsewhere_is_heard(clapkit, made, run, sounds):
    elsewhere = sorted(sounds.glob("*.flac"))[0]
    outcome = clapkit("playlist", made / "lib", "--from", elsewhere, "--variety", "0", "--length", "3", "--json")
    found = json.loads(outcome.stdout)
    clap = library.load(run)
    cosines = clap.embed_audio([row["path"] for row in found]) @ clap.embed_audio([str(elsewhere)])[0]
    assert [row["score"] for row in found] == pytest.approx(cosines.tolist(), abs=2e-3)
    assert np.all(np.diff(cosines) <= 1e-3)


def test_duplicates_are_listed_in_groups(clapkit, made, tmp_path):
    outcome = clapkit("duplicates", made / "lib", "--out", tmp_path / "x.csv", "--json", "--workers", "0")
    assert outcome.exit_code == 0, outcome.output
    links = [link for group in json.loads(outcome.stdout) for link in group["links"]]
    told = {(frozenset(name.rsplit("/", 1)[-1] for name in (k["file"], k["other"])), k["kind"]) for k in links}
    assert (frozenset(("test-00000.flac", "copied.flac")), "same") in told
    assert (frozenset(("test-00001.flac", "quiet.flac")), "copy") in told
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(links)
    unheard = clapkit("duplicates", made / "lib", "--unheard", "--alike", "0.9999")
    assert unheard.exit_code == 0
    assert "same" in unheard.stdout


def test_a_collection_is_written(clapkit, made, tmp_path):
    outcome = clapkit("collections", made / "lib", "--to", "numpy", "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    about = json.loads((tmp_path / "out" / "collection.json").read_bytes())
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (about["rows"], about["dimension"])
    assert about["space_id"] in outcome.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tag", "lib", "--labels", "gone.txt"), "gone.txt"),
        (("tag", "lib", "--labels", "labels.txt", "--threshold", "much"), "'much'"),
        (("tag", "lib", "--labels", "labels.txt", "--out", "tags.xls"), "tags.xls"),
        (("tag", "lib", "--labels", "labels.txt", "--per-file", "9"), "per_clip=9"),
        (("tag", "lib", "--labels", "labels.txt", "--calibration", "labels.txt"), "labels.txt"),
        (("tag", "nowhere", "--labels", "labels.txt"), "nowhere"),
        (("playlist", "lib"), "--from FILE"),
        (("playlist", "lib", "--from", "gone.wav"), "gone.wav"),
        (("playlist", "lib", "--text", " "), "empty"),
        (("playlist", "lib", "--text", "x", "--out", "x.txt"), "x.txt"),
        (("playlist", "lib", "--text", "x", "--variety", "2"), "2.0"),
        (("duplicates", "lib", "--threshold", "3"), "3.0"),
        (("duplicates", "lib", "--out", "x.doc"), "x.doc"),
        (("duplicates", "nowhere"), "nowhere"),
        (("collections", "lib", "--to", "milvus", "--out", "new"), "'milvus'"),
        (("collections", "lib", "--to", "numpy", "--out", "sounds"), "sounds"),
        (("collections", "old", "--to", "numpy", "--out", "new"), "older kind"),
    ],
)
def test_what_cannot_be_is_told_in_words(clapkit, made, run, sounds, words, told, monkeypatch):
    monkeypatch.chdir(made)
    if "old" in words and not (made / "old").exists():
        library.Index.build(made / "old", library.load(run), [str(next(iter(sorted(sounds.glob("*.flac")))))])
    outcome = clapkit(*words)
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.startswith("error: ")
    assert told in " ".join(outcome.stderr.split())


def test_a_library_that_is_written_is_not_tagged_meanwhile(clapkit, made):
    from clapkit.search.store import Store

    with Store.open(made / "lib") as store:
        store.writer()
        outcome = clapkit("tag", made / "lib", "--labels", made / "labels.txt", "--into-index")
    assert outcome.exit_code == 2
    assert "is being written by" in outcome.stderr


@pytest.mark.parametrize("verb", ["tag", "playlist", "duplicates", "collections"])
def test_help_teaches(clapkit, verb):
    told = clapkit(verb, "--help").stdout
    assert told.count(f"clapkit {verb} lib") >= 2
