"""Manifests of every kind become the same clips, and everything wrong with one is told at once."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from clapkit.data.clip import Event
from clapkit.data.manifest import read, read_all
from clapkit.errors import DataError

ROWS = [
    {"path": "dog.wav", "caption": "a dog barks", "label": "dog_bark", "split": "train", "licence": "CC0"},
    {"path": "rain é.wav", "caption": "rain, on a tin roof", "label": "rain", "split": "test", "licence": "CC BY"},
]


@pytest.fixture
def folder(tmp_path):
    """A folder with the (empty) sound files that the manifests name; reading a manifest opens none of them."""
    return sounds(tmp_path, "dog.wav", "rain é.wav")


def sounds(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(path, rows, *, delimiter=",", encoding="utf-8"):
    """Rows (dicts) as a table of the kind that the suffix names."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines)
        path.write_text(text, encoding=encoding)
    return path


def problems_of(source, **options):
    with pytest.raises(DataError) as caught:
        read(source, **options)
    return [problem.removeprefix(f"{source}: ") for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.json", "bom.csv", "bom.jsonl"])
def test_each_kind_of_table_gives_the_same_clips(folder, name):
    encoding = "utf-8-sig" if name.startswith("bom") else "utf-8"
    path = write(folder / name, ROWS, delimiter="\t" if name.endswith("tsv") else ",", encoding=encoding)
    manifest = read(path)
    for clip, row in zip(manifest, ROWS, strict=True):
        assert (clip.id, clip.audio, clip.captions) == (row["path"], str(folder / row["path"]), (row["caption"],))
        assert (clip.label, clip.split) == (row["label"].replace("_", " "), row["split"])
        assert clip.meta == {"licence": row["licence"]} and clip.duration_s is None
    (report,) = manifest.report
    assert report.columns == {"path": "audio", "caption": "caption", "label": "label", "split": "split"}
    assert report.meta == ("licence",) and (report.rows, report.kept, report.warnings) == (2, 2, ())
    assert "path as audio, caption, label, split" in str(report) and "kept as meta: licence" in str(report)


def test_a_folder_with_a_manifest_is_read_through_it(folder):
    write(folder / "metadata.jsonl", [{"file_name": "dog.wav", "text": "not this one"}])
    write(folder / "manifest.csv", ROWS)
    manifest = read(folder)
    assert len(manifest) == 2
    assert manifest.report[0].warnings == ("metadata.jsonl was not read, manifest.csv goes first",)


def test_an_object_around_the_list_is_seen_through(folder):
    (folder / "m.json").write_text(json.dumps({"captions per clip": 1, "data": ROWS}))
    assert len(read(folder / "m.json")) == 2


def test_several_captions_and_tags_as_lists_columns_and_declared_separators(folder):
    rows = [{"path": "dog.wav", "captions": ["a dog", " barking "], "tags": ["big_dog", "loud"]}]
    (clip,) = read(write(folder / "m.jsonl", rows))
    assert clip.captions == ("a dog", "barking") and clip.tags == ("big dog", "loud")
    rows = [{"path": "dog.wav", "caption_1": "one; two", "caption_2": "", "caption_3": "three", "tags": "a|b"}]
    (clip,) = read(write(folder / "m.csv", rows))
    assert clip.captions == ("one; two", "three") and clip.tags == ("a|b",)  # nothing is split unasked
    rows = [{"path": "dog.wav", "captions[|]": "one, still one|two", "labels": "Acoustic_guitar,Music"}]
    (clip,) = read(write(folder / "m.csv", rows), columns={"tags": "labels[,]"})
    assert clip.captions == ("one, still one", "two") and clip.tags == ("Acoustic guitar", "Music")


def test_times_and_events(folder):
    events = [{"label": "dog_bark", "onset": 0.5, "offset": 1}, ["rain", 0, 2.5]]
    row = {"path": "dog.wav", "label": "dog", "start": 1.5, "end": 4, "events": events}
    rows = [row, {**row, "start": 4, "end": 6.5, "events": None}]
    clips = read(write(folder / "m.jsonl", rows)).clips
    assert [(c.id, c.start_s, c.duration_s) for c in clips] == [("dog.wav#1.5", 1.5, 2.5), ("dog.wav#4", 4.0, 2.5)]
    assert clips[0].events == (Event("dog bark", 0.5, 1.0), Event("rain", 0.0, 2.5)) and clips[1].events == ()
    text = [{"path": "dog.wav", "label": "dog", "duration_s": "3", "end": "9", "events": json.dumps(events)}]
    (clip,) = read(write(folder / "m.csv", text))
    assert clip.duration_s == 3.0 and clip.events == clips[0].events and clip.meta == {"end": "9"}


def test_columns_named_by_the_caller_go_before_those_recognised(folder):
    rows = [{"Path": "dog.wav", "caption": "short", "Title": "a better one", "no": 7, "category": "dog"}]
    (clip,) = read(write(folder / "m.csv", rows), columns={"caption": "Title", "id": "no", "class": ""})
    assert (clip.id, clip.captions, clip.label) == ("7", ("a better one",), None)
    assert clip.meta == {"caption": "short", "category": "dog"}


def test_captions_go_before_texts_and_texts_before_descriptions(folder):
    rows = [{"path": "dog.wav", "description": "long", "text": "der Hund", "caption": "a dog"}]
    assert read(write(folder / "m.csv", rows)).clips[0].captions == ("a dog",)
    del rows[0]["caption"]
    manifest = read(write(folder / "m.csv", rows))
    assert manifest.clips[0].captions == ("der Hund",) and manifest.report[0].meta == ("description",)


def test_the_split_filter_takes_values_of_any_column(folder):
    path = write(folder / "m.jsonl", [{**row, "fold": n} for n, row in enumerate(ROWS)])
    assert [c.id for c in read(path, splits={"split": ["train", "train"]})] == ["dog.wav"]
    assert [c.id for c in read(path, splits={"fold": ["1"]})] == ["rain é.wav"]
    assert read(path, splits={"split": ["train", "test"], "licence": ["CC0"]}).report[0].kept == 1
    (problem,) = problems_of(path, splits={"split": ["train", "fold1"]})
    assert problem == "no row has split=fold1; values of split: test (1), train (1)"
    (problem,) = problems_of(path, splits={"splt": ["train"]})
    assert problem.startswith("there is no column 'splt' to filter by; did you mean 'split'")
    (problem,) = problems_of(path, splits={"split": "train", "licence": ["CC BY"]})
    assert problem == "no row has licence=CC BY; values of licence: CC0 (1)"  # among the rows of split=train


def test_a_filter_by_the_meaning_of_a_column_finds_it_under_its_name(folder):
    path = write(folder / "m.jsonl", [{"path": "dog.wav", "label": "dog", "subset": "eval"}])
    assert len(read(path, splits={"split": ["eval"]})) == 1


def test_everything_wrong_with_a_table_is_told_at_once(folder):
    text = (
        "path,caption,start,id\n"
        "dog.wav,a dog,0,a\n"
        "dog.wav,again,1,a\n"
        "dog.wav,   ,2,b\n"
        "cat.wav,a cat,3,c\n"
        "dog.wav,only three,4\n"
        "dog.wav,late,soon,e\n"
        ",nowhere,0,f\n"
    )
    (folder / "m.csv").write_text(text)
    assert problems_of(folder / "m.csv") == [
        "line 6: 3 cells, the header has 4",
        "line 4: the caption is empty: write one, leave the row out, or do not read it (caption=)",
        "line 5: the file cat.wav does not exist",
        "line 7: start is 'soon', expected seconds (0 or more)",
        "line 8: the sound is named by a path or held as bytes, found nothing",
        "the id 'a' appears 2 times: ids (or paths) must be unique",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": ".", "label": "x"}, r"line 1: the file . is a folder"),
        ({"path": "dog.wav", "label": ["a", "b"]}, "line 1: a label is one name, found ['a', 'b']"),
        ({"path": "dog.wav", "caption": 3}, "line 1: a caption is text, found int 3"),
        ({"path": "dog.wav", "captions": ["a", ""]}, "line 1: caption 2 of 2 is empty"),
        ({"path": "dog.wav", "tags": [{}]}, "line 1: a tag is text, found dict {}"),
        ({"path": "dog.wav", "label": "", "tags": []}, "line 1: neither a caption nor a label nor tags"),
        ({"path": "dog.wav", "label": "x", "id": ""}, "line 1: the id is empty"),
        ({"path": "dog.wav", "label": "x", "start": -1}, "line 1: start is -1, expected seconds (0 or more)"),
        ({"path": "dog.wav", "label": "x", "duration": 0}, "line 1: the clip lasts 0 s, expected more than 0"),
        ({"path": "dog.wav", "label": "x", "start": 3, "end": 2}, "line 1: the clip lasts -1 s"),
        ({"path": "dog.wav", "label": "x", "events": [{"label": "x", "onset": 2}]}, "an event has no offset_s"),
        ({"path": "dog.wav", "label": "x", "events": [["x", 2, 1]]}, "x lasts from 2 to 1 s"),
        ({"path": "dog.wav", "label": "x", "events": "{"}, "line 1: events are a list of"),
        ({"path": 3, "label": "x"}, "line 1: the sound is named by a path or held as bytes, found int"),
        (
            {"wav": "dog.wav", "label": "x"},
            "no column says where the sound is; found: wav, label; expected one of path",
        ),
        ({"path": "dog.wav", "title": "x"}, "no column holds captions, labels or tags; found: path, title"),
    ],
)
def test_each_fault_of_a_row_is_named(folder, row, message):
    (problem,) = problems_of(write(folder / "m.jsonl", [row]))
    assert message in problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", "it has no rows"),
        ("m.csv", b"path,caption\n", "it has no rows"),
        ("m.csv", b"path;caption\ndog.wav;a\n", "the cells seem to be separated by ';', expected ','"),
        ("m.csv", b"path,caption,caption\ndog.wav,a,b\n", "column 'caption' appears 2 times in the header"),
        ("m.csv", b"path,,caption\ndog.wav,a,b\n", "column 2 has no name in the header"),
        ("m.csv", b'path,caption\ndog.wav,a\n"dog.wav,b\n', "cannot be read (unexpected end of data)"),
        (
            "m.csv",
            b"path,caption\ndog.wav,caf\xe9\n",
            "line 2: byte 0xe9 is not UTF-8, the text is probably Windows-1252",
        ),
        ("m.csv", "path,caption".encode("utf-16"), "the text is UTF-16, expected UTF-8"),
        ("m.csv", b"path,caption\n\0", "line 2: a zero byte"),
        ("m.jsonl", b'{"path": "dog.wav", "label": "a"}\n\n{"path"\n', "line 3: not JSON"),
        ("m.jsonl", b'{"path": "dog.wav", "label": "a"}\n[1]', "line 2: expected a JSON object, found list"),
        ("m.json", b"[", "not JSON"),
        ("m.json", b'{"a": 1}', "expected a JSON list of objects"),
        ("m.xlsx", b"", "unknown type '.xlsx', expected .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_each_fault_of_a_file_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    assert any(message in problem for problem in problems_of(folder / name))


def test_what_does_not_exist_is_named(tmp_path, folder):
    assert problems_of(tmp_path / "nowhere.csv") == ["no such file or folder"]
    path = write(folder / "m.csv", ROWS)
    found = problems_of(path, columns={"captoin": "title", "caption": "titel", "label": "licnce"})
    assert found[0] == "nothing in a manifest is called 'captoin'; did you mean 'caption'?"
    assert found[1].startswith("caption=titel: there is no column 'titel'; known: caption")
    assert found[2] == "label=licnce: there is no column 'licnce'; did you mean 'licence'?"


def test_embedding_needs_no_text_and_no_files_need_exist_if_nobody_looks(folder):
    path = write(folder / "m.jsonl", [{"path": "gone.wav"}, {"path": "dog.wav", "caption": ""}])
    manifest = read(path, need_text=False, check_files=False)
    assert [clip.captions for clip in manifest] == [(), ()]
    assert manifest.report[0].warnings == ("1 row(s): without text", "1 row(s): empty captions")
    assert len(problems_of(path)) == 3


def test_labels_that_are_numbers_are_pointed_out(folder):
    manifest = read(write(folder / "m.jsonl", [{"path": "dog.wav", "label": 3}]))
    assert manifest.clips[0].label == "3"
    assert manifest.report[0].warnings == ("1 row(s): labels that are numbers",)


def test_sidecar_texts_and_objects_describe_the_sound_beside_them(tmp_path):
    sounds(tmp_path, "a.wav", "sub/b.OGG", "train/c.flac", ".hidden.wav", "notes.md")
    (tmp_path / "a.txt").write_text("\ufeffa dog\n\n a dog barks \n", encoding="utf-8")
    (tmp_path / "sub" / "b.json").write_text(json.dumps({"caption": "rain", "tags": ["wet"], "path": "elsewhere.wav"}))
    (tmp_path / "train" / "c.json").write_text(json.dumps({"label": "bell", "mood": "calm"}))
    manifest = read(tmp_path)
    a, b, c = manifest.clips
    assert (a.id, a.captions, a.split) == ("a.wav", ("a dog", "a dog barks"), None)
    assert (b.audio, b.captions, b.tags) == (str(tmp_path / "sub/b.OGG"), ("rain",), ("wet",))
    assert (c.label, c.split, c.meta["mood"], c.captions) == ("bell", "train", "calm", ())
    assert b.label is None and b.meta["folder"] == "sub"  # with sidecars, folder names are no labels
    assert manifest.report[0].warnings == ("1 file(s) of the folder were not read: 1 .md",)


def test_subfolders_are_labels_where_no_sidecars_are(tmp_path):
    sounds(tmp_path, "train/dog_bark/1.wav", "test/dog_bark/1.wav", "rain/deep/2.mp3")
    clips = {clip.id: (clip.label, clip.split) for clip in read(tmp_path)}
    expected = {"train/dog_bark/1.wav": ("dog bark", "train"), "test/dog_bark/1.wav": ("dog bark", "test")}
    assert clips == {**expected, "rain/deep/2.mp3": ("deep", None)}


def test_faulty_sidecars_and_folders_without_sound_are_named(tmp_path):
    (problem,) = problems_of(sounds(tmp_path / "empty", "x.md"))
    assert problem.startswith("no sound files in this folder (1 other files); known types: .aac")
    folder = sounds(tmp_path / "bad", "a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "a.json", "a.txt")
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "c.json").write_text("[]")
    (folder / "d.json").write_text("{")
    (folder / "e.txt").write_text("\n")
    found = problems_of(folder)
    assert "a.wav: both a.txt and a.json describe it, keep one" in found
    assert any(p.startswith("b.txt: line 1: byte 0xe9 is not UTF-8") for p in found)
    assert "c.json: expected a JSON object, found list" in found
    assert any(p.startswith("d.json: not JSON") for p in found)
    assert any(p.startswith("e.wav: the caption is empty") for p in found)


def test_merged_sources_keep_ids_unique(tmp_path):
    for name in ("one", "two", "three"):
        write(sounds(tmp_path / name, "dog.wav", f"{name}.wav") / "manifest.csv", [{"path": "dog.wav", "label": "a"}])
    write(tmp_path / "three" / "manifest.csv", [{"path": "three.wav", "label": "b", "extra": 1}])
    manifest = read_all([tmp_path / "one", tmp_path / "two" / "manifest.csv", tmp_path / "three"])
    assert [clip.id for clip in manifest] == ["one/dog.wav", "two/dog.wav", "three.wav"]
    assert len(manifest.report) == 3 and manifest.labels == ("a", "b")
    assert manifest.source == " + ".join(str(tmp_path / p) for p in ("one", "two/manifest.csv", "three"))


def test_sources_of_the_same_name_are_told_apart(tmp_path):
    paths = [tmp_path / part / "set" / "manifest.csv" for part in "xyz"]
    for path in paths:
        write(sounds(path.parent, "dog.wav") / path.name, [{"path": "dog.wav", "label": "a"}])
    assert [clip.id for clip in read_all(paths)] == ["set/dog.wav", "set-2/dog.wav", "set-3/dog.wav"]


def test_merged_sources_tell_all_their_problems_and_share_the_values_of_a_filter(tmp_path, folder):
    first = write(folder / "m.csv", ROWS)
    other = write(sounds(tmp_path / "o", "x.wav") / "o.csv", [{"path": "x.wav", "label": "x", "split": "all"}])
    assert len(read_all([first, other], splits={"split": ["train", "all"]})) == 2
    with pytest.raises(DataError) as caught:
        read_all([first, other, tmp_path / "gone"], splits={"split": ["train", "dev"]})
    assert [p.partition(": ")[2] for p in caught.value.problems] == [
        "no row has split=dev; values of split: all (1), test (1), train (1)",
        "no row is left by the split filter",
        "no such file or folder",
    ]
    with pytest.raises(DataError, match="named twice"):
        read_all([first, first])
    with pytest.raises(DataError, match="no data"):
        read_all([])


def test_prefixes_that_collide_again_are_refused(tmp_path):
    write(sounds(tmp_path / "one", "d.wav") / "manifest.csv", [{"id": "d", "path": "d.wav", "label": "a"}])
    write(sounds(tmp_path / "two", "d.wav") / "manifest.csv", [{"id": "d", "path": "d.wav", "label": "a"}])
    write(sounds(tmp_path / "three", "d.wav") / "manifest.csv", [{"id": "one/d", "path": "d.wav", "label": "a"}])
    with pytest.raises(DataError, match="the id 'one/d' comes from two sources"):
        read_all([tmp_path / "one", tmp_path / "two", tmp_path / "three"])


def test_the_description_counts_what_is_there(folder):
    rows = [{**ROWS[0], "tags": ["a", "b"]}, {**ROWS[1], "label": None, "caption": "a dog barks"}]
    lines = read(write(folder / "m.jsonl", rows)).describe().splitlines()
    assert lines[0] == str(folder / "m.jsonl")
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "clips 2",
        "classes 1",
        "tags 2",
        "captions 2 (1 different)",
        "splits test 1, train 1",
    ]


def test_the_real_collection_reads_whole(shared_data):
    manifest = read_all(sorted(shared_data.glob("*/manifest.csv")))
    on_disk = sum(1 for _ in shared_data.glob("*/audio/**/*.ogg"))
    assert len(manifest) == len({clip.id for clip in manifest}) == on_disk
    esc50 = read(shared_data / "esc50", splits={"split": ["fold5"]})
    assert len(esc50) == 400 and set(Counter(clip.label for clip in esc50).values()) == {8}
    assert not any("_" in label for label in esc50.labels)


def test_false_captions_are_read_from_a_column_of_their_own(folder):
    rows = [
        {"path": "dog.wav", "caption": "a dog, then rain", "wrong": ["rain, then a dog", " ", "rain, then a dog"]},
        {"path": "rain é.wav", "caption": "rain", "wrong": " no rain "},
    ]
    manifest = read(write(folder / "m.jsonl", rows))
    assert [clip.wrong for clip in manifest] == [("rain, then a dog",), ("no rain",)]
    assert manifest.report[0].columns["wrong"] == "wrong" and manifest.clips[0].meta == {}
    rows = [{"path": "dog.wav", "caption": "a dog", "false[|]": "a cat|no dog"}]
    (clip,) = read(write(folder / "m.csv", rows), columns={"wrong": "false[|]"})
    assert clip.wrong == ("a cat", "no dog")
    rows = [{"path": "dog.wav", "caption": "A dog", "wrong": ["a dog", 3]}]
    assert problems_of(write(folder / "m.jsonl", rows)) == [
        "line 1: the caption 'a dog' is given as wrong too",
        "line 1: a wrong caption is text, found int 3",
    ]


def test_each_of_several_sources_is_remembered_by_its_clips(tmp_path):
    for name in ("speech", "street"):
        sounds(tmp_path / name, "a.wav")
        write(tmp_path / name / "manifest.csv", [{"path": "a.wav", "caption": name}])
    both = read_all([tmp_path / "speech", tmp_path / "street" / "manifest.csv"])
    assert [clip.provenance for clip in both] == [("speech",), ("street",)]
    assert read(tmp_path / "speech").clips[0].provenance == ()
