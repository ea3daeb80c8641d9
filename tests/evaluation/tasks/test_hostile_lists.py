"""Lists broken in the ways of the world: whatever stands in one, its reader reads it or says what is wrong, by name."""

from __future__ import annotations

import pytest
from test_class_layouts import CASES, lay

from clapkit.errors import DataError
from clapkit.evaluation.tasks import find_task
from clapkit.evaluation.tasks.composition import LAYOUTS
from clapkit.evaluation.tasks.listing import json_of, objects, read_rows, seconds

HEAD = b"filename,fold,category,esc10,src_file,take\n"
BROKEN = {
    "Latin-1": HEAD + "hören.wav,1,dog,True,1,A\n".encode("latin-1"),
    "UTF-16": HEAD.decode().encode("utf-16"),
    "a zero byte": HEAD + b"\0\0\n",
    "no text": bytes(range(256)) * 4,
    "a huge cell": HEAD + b"9" * 200_000 + b",1,dog,True,1,A\n",
    "an open quote": HEAD + b'"1.wav,1,dog,True,1,A\n',
    "empty": b"",
    "no JSON": b'{"data": [{"wav": ',
    "deep JSON": b"[" * 100_000,
    "a number": b"3",
    "an object": b"{}",
    "a list of numbers": b"[1, 2]",
    "data that is a number": b'{"data": 3, "files": 3, "note": 3}',
    "data of numbers": b'{"data": [1], "files": [1]}',
    "data of nothing": b'{"data": [{}], "files": [{}]}',
    "annotations that are text": b'{"files": [{"filename": "a.wav", "annotations": ["x"]}]}',
}
LISTS = {
    "audioset": ("AudioSet/eval_segments.csv", "AudioSet/class_labels_indices.csv"),
    "audioset-strong": ("AudioSet/audioset_eval_strong.tsv", "AudioSet/mid_to_display_name.tsv"),
    "clotho": ("clotho/clotho_captions_evaluation.csv",),
    "audiocaps": ("audiocaps/test.csv",),
    "macs": ("MACS/MACS.yaml",),
    "wavcaps-freesound": ("WavCaps/json_files/FreeSound/fsd_final.json",),
    "musiccaps": ("MusicCaps/musiccaps-public.csv",),
    "song-describer": ("song-describer/song_describer.csv",),
    "desed": ("DESED/metadata/eval/public.tsv",),
    "urban-sed": ("URBAN-SED/annotations/test/a.txt",),
    "vggsound": ("vggsound/vggsound.csv",),
    "esc50": ("ESC-50/meta/esc50.csv", "ESC-50/manifest.csv"),
}


def read_or_named(task, root, named):
    """What is read, or the error, which has to name the file."""
    try:
        return task.open(root)
    except DataError as error:
        assert named in str(error)
        return str(error)


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("case", [case for case in CASES if any(case.files.values())], ids=lambda case: case.task)
def test_lists_of_classes(case, what, tmp_path):
    folder = lay(tmp_path / case.folder, case.files)
    for name, text in case.files.items():
        if text is None:
            continue
        (folder / name).write_bytes(BROKEN[what])
        read_or_named(find_task(case.task), tmp_path, case.folder)
        (folder / name).write_bytes(text.encode())


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_tags_and_captions(name, what, tmp_path):
    for number, place in enumerate(LISTS[name]):
        path = tmp_path / str(number) / place
        path.parent.mkdir(parents=True)
        path.write_bytes(BROKEN[what])
        assert isinstance(read_or_named(find_task(name), tmp_path / str(number), path.parent.name), str)


@pytest.mark.parametrize("what", BROKEN)
def test_lists_of_true_and_false_sentences(what, tmp_path):
    tables = ("CompA_order_benchmark.csv", "Compa-Attribute.csv", "clotho_entailment_test.csv")
    for name in (*tables, "clotho_entailment_evaluation.csv", "audiocaps_entailment_test.csv"):
        (tmp_path / name).write_bytes(BROKEN[what])
    for layout in LAYOUTS:
        with pytest.raises(DataError, match=tmp_path.name):
            layout.read(tmp_path)


def test_what_is_wrong_is_said_with_its_line(tmp_path):
    path = tmp_path / "list.csv"
    for what, words in {
        "Latin-1": "line 2: byte 0xf6 is not UTF-8, the text is probably Windows-1252 or Latin-1",
        "UTF-16": "the text is UTF-16, expected UTF-8",
        "a zero byte": "line 2: a zero byte",
        "a huge cell": "line 2 cannot be read as a row of a table: field larger than field limit",
        "empty": r"found the columns \(none\), expected filename",
    }.items():
        path.write_bytes(BROKEN[what])
        with pytest.raises(DataError, match=rf"list\.csv.*{words}"):
            read_rows(path, ("filename",))
    with pytest.raises(DataError, match=r"list\.csv: entry 2 of 2 has no wav"):
        objects([{"wav": "a"}, {"wav": None}], path=path, keys=("wav",))
    with pytest.raises(DataError, match=r"list\.csv: entry 1 of 1 is int, expected an object"):
        objects([3], path=path, keys=())
    with pytest.raises(DataError, match=r"list\.csv: found dict, expected a list"):
        objects({}, path=path, keys=())
    path.write_bytes(BROKEN["no JSON"])
    with pytest.raises(DataError, match=r"list\.csv: cannot be read as JSON: .*line 1"):
        json_of(path)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "ten"])
def test_a_time_is_a_finite_number(text, tmp_path):
    with pytest.raises(DataError, match=f"found '{text}' where a time is expected"):
        seconds(text, tmp_path)


def test_clips_of_a_manifest_without_captions_are_left_out_and_named(shared_data, tmp_path):
    """Such a manifest cannot be trained on; the other clips can be scored all the same."""
    source = shared_data / "cc_sounds"
    lines = (source / "manifest.csv").read_text(encoding="utf-8").splitlines()
    folder = tmp_path / "cc_sounds"
    (folder / "audio").mkdir(parents=True)
    rows = [line for line in lines[1:] if ",test," in line][:4]
    place = lines[0].split(",").index("caption")
    assert lines[0].startswith("path,")
    cut = rows[0].split(",")
    rows[0] = ",".join([*cut[:place], "", *cut[place + 1 :]])
    for row in rows:
        target = folder / row.split(",")[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    (folder / "manifest.csv").write_text("\n".join([lines[0], *rows]), encoding="utf-8")
    opened = find_task("cc_sounds").open(tmp_path)
    assert len(opened.clips) == 3 and not opened.standard
    assert f"1 clips without captions: {cut[0]}" in opened.differences
