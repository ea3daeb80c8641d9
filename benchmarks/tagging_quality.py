"""`clapkit tag` as it comes, on ESC-50 clips that the model never heard: what of its tags is right, what is lacking.

    python benchmarks/tagging_quality.py RUN --data DATA --json benchmarks/results/tagging_quality.json

The library is one fold of ESC-50 alone (fold 5: 400 clips of 50 classes), indexed under numbers for names, so that
nothing of the labels is in it; the label file holds the 50 class names. The true label of a clip is its class: other
sounds that are in a clip count against a tag, though it may be right. Tags are read from the file that --out writes.

auto        as the command comes: one label a file (--per-file 1), threshold by the calibration on the library itself
0.5, 0.3    tags from these probabilities on
shuffled    `auto`, with the true labels dealt anew among the clips (seed 0)
one cosine, one each   what labels at hand would give: the best threshold on raw cosines, and the best 50, on these
            very clips (`evaluation.audits.calibration.best_thresholds`)
nearest     the class with the highest cosine, always one

precision, recall, micro-F1 over all pairs of clip and label; intervals resample recordings (Freesound ids).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import described

import clapkit
from clapkit.data.clip import Clip
from clapkit.data.manifest import read_all
from clapkit.evaluation.audits.calibration import best_thresholds, micro_f1
from clapkit.search.curating.files import file_table
from clapkit.search.curating.labels import Label, label_vectors
from clapkit.search.store import Store

WAYS = {"auto": (), "0.5": ("--threshold", "0.5"), "0.3": ("--threshold", "0.3")}


def clapkit_says(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "clapkit", *words], check=True, stdout=subprocess.DEVNULL)


def table_of(path: Path, names: list[str], count: int) -> np.ndarray:
    """Which label was given to which clip [N, C], from the CSV of `clapkit tag`."""
    chosen_NC = np.zeros((count, len(names)), bool)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["tag"]:
                chosen_NC[int(Path(row["path"]).stem), names.index(row["tag"])] = True
    return chosen_NC


def scores(chosen_NC: np.ndarray, truth_NC: np.ndarray, recordings: list[str]) -> dict[str, Any]:
    right = int((chosen_NC & truth_NC).sum())
    f1 = micro_f1(chosen_NC, truth_NC, groups=recordings)
    return {
        "tags": int(chosen_NC.sum()),
        "clips_without": int((~chosen_NC.any(axis=1)).sum()),
        "precision": round(right / max(1, int(chosen_NC.sum())), 4),
        "recall": round(right / int(truth_NC.sum()), 4),
        "micro_f1": {name: round(float(getattr(f1, name)), 4) for name in ("value", "low", "high", "chance")},
    }


def measure(given: argparse.Namespace, clips: list[Clip], folder: Path) -> dict[str, Any]:
    labels, recordings = [str(clip.label) for clip in clips], [str(clip.meta["freesound_id"]) for clip in clips]
    names = sorted(set(labels))
    truth_NC = np.array(labels)[:, None] == np.array(names)
    sounds, library = folder / "sounds", folder / "library"
    sounds.mkdir()
    for n, clip in enumerate(clips):
        shutil.copy(str(clip.audio), sounds / f"{n:05}{Path(str(clip.audio)).suffix}")
    (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    clapkit_says("index", str(sounds), "--model", given.run, "--out", str(library))
    told: dict[str, Any] = {}
    for name, words in WAYS.items():
        out, started = folder / f"{name}.csv", time.perf_counter()
        clapkit_says("tag", str(library), "--labels", str(folder / "labels.txt"), "--out", str(out), *words)
        chosen_NC = table_of(out, names, len(clips))
        told[name] = {"seconds": round(time.perf_counter() - started, 1), **scores(chosen_NC, truth_NC, recordings)}
        if name == "auto":
            dealt = np.random.default_rng(0).permutation(len(clips))
            told["shuffled"] = scores(chosen_NC, truth_NC[dealt], recordings)
    with Store.open(library) as store:
        files = file_table(store.view)
    text_CD = label_vectors(clapkit.load(given.run).embed_text, tuple(map(Label, names)))
    place_N = np.argsort([int(Path(file).stem) for file in files.files])
    cosine_NC = files.vectors_FD[place_N] @ text_CD.T
    one = best_thresholds(cosine_NC.reshape(-1, 1), truth_NC.reshape(-1, 1))
    told["one cosine"] = scores(cosine_NC >= one[0], truth_NC, recordings)
    told["one each"] = scores(cosine_NC >= best_thresholds(cosine_NC, truth_NC), truth_NC, recordings)
    told["nearest"] = scores(cosine_NC == cosine_NC.max(axis=1, keepdims=True), truth_NC, recordings)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a model that was not trained on the fold")
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc50/")
    parser.add_argument("--fold", default="fold5")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    clips = [clip for clip in read_all([given.data / "esc50" / "manifest.csv"]).clips if clip.split == given.fold]
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, clips, Path(folder))
    about = {"fold": given.fold, "clips": len(clips), "ways": told, "machine": described("torch", "numpy")}
    text = json.dumps(about, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
