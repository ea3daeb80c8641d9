"""A file of labels: what a library is to be tagged with, and the words by which a model is asked for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clapkit.errors import DataError
from clapkit.nearest import unit_rows
from clapkit.text.prompts import DEFAULT, clean_label, fill


@dataclass(frozen=True)
class Label:
    """One label.

    name     the tag
    prompts  whole texts that the model is asked with; none: the name in a template
    within   wider labels that hold wherever this one does, the widest first
    """

    name: str
    prompts: tuple[str, ...] = ()
    within: tuple[str, ...] = ()


def parse_labels(text: str) -> tuple[Label, ...]:
    """Labels out of text, one a line.

        dog                                    the tag, asked for as "this is the sound of dog"
        rain<TAB>rain on a roof<TAB>a downpour asked for by these texts instead, whose mean counts
        animal > dog > terrier                 where "terrier" applies, "dog" and "animal" do too
        # a remark                             lines that begin with # and empty lines are passed over

    DataError lists all lines that cannot be used: an empty name, a label that comes twice, one within itself.
    """
    labels: dict[str, Label] = {}
    problems = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        path, *prompts = line.split("\t")
        *within, name = [clean_label(part) for part in path.split(">")]
        if not name or not all(within):
            problems.append(f"line {number}: {line.strip()!r} has an empty name")
        elif name in labels:
            problems.append(f"line {number}: {name!r} comes twice")
        elif name in within or len(set(within)) < len(within):
            problems.append(f"line {number}: {line.strip()!r} names a label within itself")
        else:
            kept = tuple(dict.fromkeys(prompt.strip() for prompt in prompts if prompt.strip()))
            labels[name] = Label(name, kept, tuple(within))
    if problems:
        raise DataError(f"{len(problems)} lines of labels cannot be used:", problems)
    if not labels:
        raise DataError("there is no label: expected one a line")
    return tuple(labels.values())


def read_labels_file(path: str | os.PathLike[str]) -> tuple[Label, ...]:
    """`parse_labels` of a text file. DataError, naming the file, for one that cannot be read or used."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the labels file {path} cannot be read as UTF-8 text: {error}") from error
    try:
        return parse_labels(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def label_vectors(
    embed_text: Callable[[list[str]], np.ndarray], labels: Sequence[Label], *, template: str = DEFAULT
) -> np.ndarray:
    """One unit vector [C, D] a label: the mean over its prompts. `embed_text` is called once.

    SpecError for a template without `{}`.
    """
    prompts = [label.prompts or (fill(template, label.name),) for label in labels]
    unit_PD = unit_rows(embed_text([text for texts in prompts for text in texts]), what="the prompts")
    ends = np.cumsum([len(texts) for texts in prompts])[:-1]
    means = [part.astype(np.float64).mean(axis=0) for part in np.split(unit_PD, ends)]
    return unit_rows(np.stack(means), what="the mean of the prompts of a label")
