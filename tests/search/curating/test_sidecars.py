"""Tags as CSV, JSON and sidecar files; what others wrote stays."""

from __future__ import annotations

import csv
import json

import pytest

from clapkit.errors import DataError
from clapkit.search.curating.sidecars import write_csv, write_json, write_sidecars
from clapkit.search.curating.tagging import Tagged


@pytest.fixture
def tagged(tmp_path):
    names = [tmp_path / "sounds" / name for name in ("a.wav", "deep/b, ü.wav")]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(b"RIFF")
    first, second = (name.as_posix() for name in names)
    return [Tagged(first, (("dog", 0.9), ("rain, heavy", 0.25))), Tagged(second, ())]


def test_csv_and_json_hold_all(tagged, tmp_path):
    write_csv(tmp_path / "tags.csv", tagged)
    with open(tmp_path / "tags.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    first, second = (one.file for one in tagged)
    assert rows[1:] == [[first, "dog", "0.9000"], [first, "rain, heavy", "0.2500"], [second, "", ""]]
    write_json(tmp_path / "tags.json", tagged)
    found = json.loads((tmp_path / "tags.json").read_text(encoding="utf-8"))
    assert found[0] == {
        "path": first,
        "tags": [{"tag": "dog", "probability": 0.9}, {"tag": "rain, heavy", "probability": 0.25}],
    }
    assert found[1] == {"path": second, "tags": []}


def test_sidecars_beside_the_sounds_are_renewed(tagged):
    for _ in range(2):
        assert write_sidecars(tagged, space_id="space") == (2, [])
    with open(tagged[0].file + ".tags.json", encoding="utf-8") as file:
        found = json.load(file)
    assert (found["made_by"], found["space_id"], found["tags"][0]["tag"]) == ("clapkit tag", "space", "dog")


def test_sidecars_below_another_folder(tagged, tmp_path):
    assert write_sidecars(tagged, space_id="space", into=tmp_path / "mirror") == (2, [])
    assert (tmp_path / "mirror" / "a.wav.tags.json").is_file()
    assert (tmp_path / "mirror" / "deep" / "b, ü.wav.tags.json").is_file()
    with pytest.raises(DataError, match="full path"):
        write_sidecars([Tagged("x/../../a.wav", ())], space_id="space", into=tmp_path / "mirror")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"no json", b'{"made_by": "another"}'])
def test_what_others_wrote_stays(tagged, content, tmp_path):
    place = tmp_path / "sounds" / "a.wav.tags.json"
    place.write_bytes(content)
    written, refused = write_sidecars(tagged, space_id="space")
    assert (written, place.read_bytes()) == (1, content)
    assert refused[0][0] == tagged[0].file
    assert "stays as it is" in refused[0][1]


def test_nothing_is_put_beside_a_sound_that_is_gone(tagged, tmp_path):
    (tmp_path / "sounds" / "a.wav").unlink()
    written, ((file, reason),) = write_sidecars([*tagged], space_id="space")
    assert (written, file) == (1, tagged[0].file)
    assert "not there" in reason
