"""What a precision costs: zero-shot accuracy and agreement of one trained model in fp32, bf16 and int8.

    python benchmarks/precision_accuracy.py --work FOLDER [--providers torch,onnx,openvino] [--json RESULTS]

Trains a patch transformer (2.7 M, all of it linear layers) on the sound world once, into FOLDER, and goes on with it in
later calls; then embeds the test clips of the world (classes and combinations) in each provider and precision. int8 has
its ranges from the built-in clips, which are of another seed of the same generator; `--calibration` takes them from
ESC-50-like files in a folder instead, which sound like nothing in the world.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import clapkit
from clapkit.building.soundworld import World, write_world
from clapkit.cookbook import find_recipe
from clapkit.data.manifest import read
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.recipe import Recipe
from clapkit.runtime.ready import PRECISIONS
from clapkit.spec import derive
from clapkit.text.prompts import DEFAULT
from clapkit.towers import vit
from clapkit.training.loop import train

SPLITS = {"test": "label", "test_combinations": "combination"}


def recipe(steps: int) -> Recipe:
    given = find_recipe("soundworld")
    changed = given.but(model=derive(given.model, audio=vit.small))
    return changed.with_set("train.steps", steps).with_set("train.drop_tokens", 0.5).with_set("train.lr", 5e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--providers", default="torch,onnx,openvino")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    manifest = given.work / "world" / "manifest.jsonl"
    if not manifest.exists():
        write_world(given.work / "world", train=1800, test=600, test_combinations=240, processes=2)
    run = given.work / "run"
    if not (run / "model").exists():
        clips = read(manifest, splits={"split": ["train"]}).clips
        train(recipe(given.steps), clips, out=run, resume=True, progress=True)
    rows = []
    reference: dict[str, np.ndarray] = {}
    for provider in given.providers.split(","):
        for precision in PRECISIONS[provider]:
            sounds = sorted(map(str, given.calibration.rglob("*.*")))[:64] if given.calibration else None
            chosen = sounds if precision == "int8" else None
            clap = clapkit.load(run, precision=precision, provider=provider, calibration=chosen)
            rows.append({"provider": provider, "precision": precision, **measure(clap, manifest, reference)})
            print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(clap: clapkit.Clap, manifest: Path, reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Top-1 of each split, and the lowest cosine to `reference` (filled by the first call)."""
    told, lowest = {}, 1.0
    for split, column in SPLITS.items():
        clips = read(manifest, splits={"split": [split]}).clips
        vectors_ND = clap.embed_audio([clip.audio for clip in clips])
        names = World().labels(split)
        labels = [clip.label if column == "label" else str(clip.meta[column]) for clip in clips]
        result = zero_shot(vectors_ND, labels, names, class_vectors(clap.embed_text, names, [DEFAULT]))
        told[f"{split} top-1 %"] = round(100 * result.metrics["accuracy"].value, 2)
        told[f"{split} n"] = len(clips)
        lowest = min(lowest, float((vectors_ND * reference.setdefault(split, vectors_ND)).sum(1).min()))
    return {**told, "lowest_cosine_to_torch_fp32": round(lowest, 6)}


if __name__ == "__main__":
    main()
