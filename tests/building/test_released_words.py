"""The texts that the small text tower is distilled on."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from clapkit.building.released.words import corpora, gather, said, single_words
from clapkit.data.clip import Clip
from clapkit.errors import DataError

LICENCES = {
    "audiocaps.csv.gz": "MIT per repository LICENSE",
    "clotho.csv.gz": "non-commercial academic use",
    "audio_entailment.csv.gz": "MIT",
    "class_labels/*.json": "CC0-1.0",
}


@pytest.fixture
def folder(tmp_path):
    def packed(name: str, rows: list[dict[str, str]]) -> None:
        with gzip.open(tmp_path / name, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    packed("audiocaps.csv.gz", [{"caption": "a dog barks"}, {"caption": "x" * 65}, {"caption": ""}])
    packed("clotho.csv.gz", [{f"caption_{i}": "not free" for i in range(1, 6)}])
    hypotheses = {"entailment": "a hum", "neutral": "None", "contradiction": "silence"}
    of_clotho = {"entailment": "made of clotho", "neutral": "of clotho", "contradiction": "too"}
    packed("audio_entailment.csv.gz", [{"split": "audiocaps_test", **hypotheses}, {"split": "clotho_dev", **of_clotho}])
    (tmp_path / "class_labels").mkdir()
    (tmp_path / "class_labels" / "some.json").write_text(json.dumps({"church_bells": 0}), encoding="utf-8")
    with (tmp_path / "README.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "licence"])
        writer.writerows(LICENCES.items())
    return tmp_path


def test_texts_are_of_free_files_alone_each_once(folder):
    clips = [Clip("a", "a.wav", captions=("a dog barks",), label="owl"), Clip("b", "b.wav", captions=("wind",))]
    texts = gather(folder, clips, {"[PAD]": 0, "hum": 1, "##ing": 2, "bell": 3})
    assert len(set(texts)) == len(texts)
    assert {"a dog barks", "wind", "owl", "the sound of owl", "a hum", "silence", "church bells", "bell"} <= set(texts)
    assert not {"not free", "made of clotho", "None", "", "x" * 65, "##ing", "[PAD]"} & set(texts)
    assert texts == gather(folder, clips, {"[PAD]": 0, "hum": 1, "##ing": 2, "bell": 3})


def test_a_class_name_stands_in_the_sentences_of_training():
    assert "this is the sound of church bells" in said("church_bells") and "church bells" in said("church_bells")


def test_words_come_in_the_order_of_their_ids():
    assert single_words({"zoo": 1, "ape": 7, "##x": 2, "[CLS]": 0, "9": 3}) == ["zoo", "ape"]


def test_what_is_refused(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"no README\.csv"):
        corpora(empty)
    with (folder / "README.csv").open("a", encoding="utf-8") as file:
        file.write("other.csv.gz,CC0\n")
    with pytest.raises(DataError, match=r"other\.csv\.gz: no reader"):
        gather(folder, [], {})
