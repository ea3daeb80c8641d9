"""clapkit-tiny: the figures of its card, from a folder that `clapkit.recipes.released.tiny` made.

Pre-registered
    model      recipe `tiny`, ESC-50 folds 1-4 and the other sets without their test splits, last average of weights
    seen       top-1 on fold 5 of ESC-50, "this is the sound of {}"; recordings resampled     must 0.78, aim 0.85
               the same by the bare name, the ensemble of evaluation prompts, and a synonym of each name
    sets       top-1 on the test splits of instruments (classes trained), cc_sounds and berklee (their test labels occur
               in no training clip), each among the labels of that split, and what chance would be
    unseen     three draws of ten ESC-50 classes (those of esc50_unseen.py), every clip of any set whose words betray
               one left out; the recipe for 1,000 steps; top-1 among the ten       must 0.25, aim 0.35, chance 0.10
    size       bytes of the model folder                                                               at most 25 MB
    speed      16-bit WAV of 5 s at 44.1 kHz to vectors, two threads, best of three  must 150 clips/s, aim 300 int8

Run     python proofs/tiny.py --data DATA --out OUT [--parts seen,sets,size,speed,unseen] [--variant research]
Each part is kept in results/tiny_VARIANT.json as soon as it has ended; draws that were stopped go on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from esc50_unseen import classes_of_draw
from esc50_words import REMOVE, SYNONYMS, betrays

import clapkit
from clapkit.audio.decode import decode
from clapkit.building.released.making import Plan, make
from clapkit.data.clip import Clip
from clapkit.data.manifest import read
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.recipes.released.tiny import SHARES, recipe
from clapkit.text.prompts import DEFAULT, EVALUATION

RESULTS = Path(__file__).parent / "results"
UNSEEN_STEPS = 1000
WAYS = {DEFAULT: [DEFAULT], "bare": ["{}"], "ensemble": list(EVALUATION["sound"])}


def accuracy(clap, clips: list[Clip], names: list[str], phrases: list[str], prompts: list[str], audio) -> dict:
    groups = [str(clip.meta.get("freesound_id") or clip.id) for clip in clips]
    vectors = class_vectors(clap.embed_text, phrases, prompts)
    result = zero_shot(audio, [clip.label for clip in clips], names, vectors, groups=groups)
    return {**result.to_json()["metrics"]["accuracy"], "n": len(clips), "chance": 1 / len(names)}


def scored(clap, clips: list[Clip]) -> dict:
    """Top-1 among the labels of these clips, in three ways of asking."""
    names = sorted({clip.label for clip in clips})
    audio = clap.embed_audio([clip.audio for clip in clips], progress=True)
    found = {way: accuracy(clap, clips, names, names, prompts, audio) for way, prompts in WAYS.items()}
    if set(names) <= SYNONYMS.keys():
        found["synonyms"] = accuracy(clap, clips, names, [SYNONYMS[name] for name in names], [DEFAULT], audio)
    return found


def split_of(data: Path, name: str, split: str) -> list[Clip]:
    return list(read(data / name / "manifest.csv", splits={"split": [split]}).clips)


def part_seen(arguments) -> dict:
    return scored(clapkit.load(arguments.out / "run"), split_of(arguments.data, "esc50", "fold5"))


def part_sets(arguments) -> dict:
    clap = clapkit.load(arguments.out / "run")
    return {
        name: scored(clap, split_of(arguments.data, name, "test")) for name in ("instruments", "cc_sounds", "berklee")
    }


def part_size(arguments) -> dict:
    files = {path.name: path.stat().st_size for path in (arguments.out / "run" / "model").rglob("*") if path.is_file()}
    return {"files": files, "bytes": sum(files.values())}


def part_speed(arguments) -> dict:
    clips = split_of(arguments.data, "esc50", "fold4")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, clip in enumerate(clips):
            files.append(str(Path(folder) / f"{i}.wav"))
            soundfile.write(files[-1], decode(clip.audio, rate_hz=44100).samples, 44100, subtype="PCM_16")
        sounds = {"wav": files, "opus": [clip.audio for clip in clips]}
        for precision in ("fp32", "bf16", "int8"):
            clap = clapkit.load(arguments.out / "run", precision=precision, threads=2)
            for kind, sources in sounds.items():
                clap.embed_audio(sources[:32])
                best = min(_seconds(lambda sources=sources, clap=clap: clap.embed_audio(sources)) for _ in range(3))
                found[f"{kind} {precision}"] = {"clips_per_s": round(len(sources) / best, 1)}
                print(kind, precision, found[f"{kind} {precision}"], flush=True)
    return found


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def part_unseen(arguments) -> dict:
    rows = [_draw(arguments, draw) for draw in range(3)]
    return {"draws": rows, "mean": {way: float(np.mean([row[way]["value"] for row in rows])) for way in WAYS}}


def _draw(arguments, draw: int) -> dict:
    classes = classes_of_draw(draw)
    stems = [stem for name in classes for stem in REMOVE[name]]

    def keep(clip: Clip) -> bool:
        return not betrays(" / ".join((clip.label or "", *clip.tags, *clip.captions)), stems)

    out = arguments.out / f"draw{draw}"
    if not (out / "run" / "model").exists():
        shutil.copytree(arguments.out / "text", out / "text", dirs_exist_ok=True)
        plan = Plan(data=arguments.data, out=out, variant=arguments.variant, shares=SHARES)
        make(plan, recipe.with_set("train.steps", UNSEEN_STEPS), keep=keep, progress=True)
    everything = read(arguments.data / "esc50" / "manifest.csv").clips
    told = json.loads((out / "selection.json").read_text(encoding="utf-8"))
    clips = [clip for clip in everything if clip.label in classes]
    return {"classes": classes, "clips_trained_on": told["clips"], **scored(clapkit.load(out / "run"), clips)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc50/, berklee/, ...")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the recipe wrote")
    parser.add_argument("--variant", choices=("released", "research"), default="research")
    parser.add_argument("--parts", default="seen,sets,size,speed,unseen")
    parser.add_argument("--results", type=Path, help="the result file; results/ beside the proof unless given")
    arguments = parser.parse_args()
    path = arguments.results or RESULTS / f"tiny_{arguments.variant}.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"variant": arguments.variant}
    for part in arguments.parts.split(","):
        figures[part] = globals()[f"part_{part}"](arguments)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(part, json.dumps(figures[part], indent=1), flush=True)


if __name__ == "__main__":
    main()
