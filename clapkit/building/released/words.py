"""Texts about sound that the small text tower is distilled on: captions, class names, and words by themselves.

The folder is that of the shared collection: `README.csv` names each file with its licence, and only files whose licence
allows released weights are read (`licences.allows`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clapkit.building.released.licences import allows
from clapkit.data.clip import Clip
from clapkit.errors import DataError
from clapkit.text.prompts import TRAINING, clean_label, fill

# The columns of each corpus that hold a text, and the value of a column that makes a row another's work: hypotheses
# about Clotho's captions are made from them.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "audiocaps.csv.gz": ("caption",),
    "clotho.csv.gz": ("caption_1", "caption_2", "caption_3", "caption_4", "caption_5"),
    "musiccaps.csv.gz": ("caption",),
    "mecat.csv.gz": ("short_1", "short_2", "speech", "music", "sound", "environment"),
    "audio_entailment.csv.gz": ("entailment", "neutral", "contradiction"),
    "audioset_ontology.csv.gz": ("name", "description"),
}
_OF_CLOTHO = ("audio_entailment.csv.gz", "split", "clotho")
_MOST_CHARACTERS = 64
_TEMPLATES = (*TRAINING["sound"], *TRAINING["music"])


def corpora(folder: Path) -> dict[str, str]:
    """The caption files of the folder that may be used for released weights, with their licences.

    DataError where the folder has no README.csv, which says what is allowed.
    """
    index = folder / "README.csv"
    if not index.is_file():
        raise DataError(f"{folder} has no README.csv with the licence of each file: expected columns file, licence")
    with index.open(encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["licence"]) for row in csv.DictReader(file)]
    return {name: licence for name, licence in rows if allows(licence)}


def sentences(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Every caption of these files but those of more than 64 characters: a mean of many tokens says little of one."""
    for name in names:
        if name.endswith(".json"):
            for path in sorted(folder.glob(name)):
                yield from _class_names(path)
        elif name in _COLUMNS:
            yield from _captions(folder / name)
        else:
            raise DataError(f"{folder / name}: no reader for this file; known are {', '.join(_COLUMNS)} and *.json")


def _captions(path: Path) -> Iterator[str]:
    other, column, mark = _OF_CLOTHO
    with gzip.open(path) as packed:
        for row in csv.DictReader(io.TextIOWrapper(packed, encoding="utf-8", newline="")):
            if path.name == other and row[column].startswith(mark):
                continue
            yield from (row[name] for name in _COLUMNS[path.name] if _is_text(row[name]))


def _is_text(text: str) -> bool:
    return text not in ("", "None") and len(text) <= _MOST_CHARACTERS


def _class_names(path: Path) -> Iterator[str]:
    for label in json.loads(path.read_text(encoding="utf-8")):
        yield from said(label)


def said(name: str) -> list[str]:
    """A class name by itself and in the sentences that training makes of it."""
    return [fill(template, clean_label(name)) for template in _TEMPLATES]


def texts_of_clips(clips: Sequence[Clip]) -> Iterator[str]:
    """Captions of clips, and their labels in sentences."""
    for clip in clips:
        yield from clip.captions
    for label in dict.fromkeys(clip.label for clip in clips if clip.label):
        yield from said(label)


def single_words(vocabulary: Mapping[str, int]) -> list[str]:
    """The whole words of a WordPiece vocabulary, in the order of their ids: pieces and marks are left out."""
    return [word for word in sorted(vocabulary, key=lambda word: vocabulary[word]) if word.isalpha()]


def gather(folder: Path, clips: Sequence[Clip], vocabulary: Mapping[str, int]) -> list[str]:
    """All texts, each once, in an order that depends on the files alone."""
    captions = sentences(folder, corpora(folder))
    return list(dict.fromkeys((*texts_of_clips(clips), *captions, *single_words(vocabulary))))
