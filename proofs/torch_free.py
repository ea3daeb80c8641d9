"""An environment without torch does the work of one with it, from an exported model.

Pre-registered
    install    `pip install -c constraints.txt ".[onnx]"` into an empty environment brings no torch; importing it fails
    vectors    sounds and texts there and with torch: lowest cosine                                       must 0.9999
    classify   the same order of labels for every sound
    search     the index made there, and one that torch has made, give the same hits for the same words, and the
               space_id is the same

Run (with everything installed; the environment is made in a temporary folder, and fetched from the package index):
    python proofs/torch_free.py RUN [--sounds 40] [--out proofs/results/torch_free.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

import clapkit
from clapkit.building.soundworld import write_world

REPOSITORY = Path(__file__).resolve().parents[1]
LABELS = ["dog bark", "church bell", "rain", "engine", "siren"]
WORDS = ["a dog barks", "rain, then a bell", "the siren of a car far away"]

# What the small environment runs; it knows nothing of this file.
SMALL = """
import importlib.metadata, json, sys
import numpy as np
try:
    import torch
except ImportError as error:
    refused = str(error)
else:
    raise SystemExit("torch can be imported here: the environment is not small")
import clapkit

model, sounds, index, labels, words, out = json.loads(sys.argv[1])
clap = clapkit.load(model)
classes = [[label for label, _ in row] for row in clap.classify(sounds, labels)]
np.savez(out, audio=clap.embed_audio(sounds), text=clap.embed_text(words))
theirs = clapkit.Index.open(index, clap)
print(json.dumps({
    "torch": refused, "space_id": clap.space_id, "provider": clap.provider, "note": theirs.note, "classes": classes,
    "hits": [[hit.path for hit in theirs.search(text, k=5)] for text in words],
    "packages": sorted(d.metadata["Name"] for d in importlib.metadata.distributions()),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a model that can be exported")
    parser.add_argument("--sounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(given.run).resolve()) if Path(given.run).exists() else given.run
        here = Path.cwd()
        told = measure(run, Path(folder).resolve(), count=given.sounds)
        os.chdir(here)
    text = json.dumps(told, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    near = told["lowest_cosine_audio"] >= 0.9999 and told["lowest_cosine_text"] >= 0.9999
    sys.exit(0 if near and all(value for name, value in told.items() if name.startswith("same_")) else 1)


def measure(run: str, folder: Path, *, count: int) -> dict[str, Any]:
    python = small_environment(folder / "small")
    os.chdir(folder)  # a program that is begun in the repository would find the package there
    write_world(folder / "world", train=2, test=count)
    sounds = [str(path) for path in sorted((folder / "world" / "audio" / "test").iterdir())][:count]
    command([sys.executable, "-m", "clapkit.cli.main"], "export", run, str(folder / "exported"), "--to", "onnx")
    clap = clapkit.load(run, device="cpu")
    index, _ = clapkit.Index.build(folder / "index", clap, sounds)
    arguments = [str(folder / "exported"), sounds, str(folder / "index"), LABELS, WORDS, str(folder / "small.npz")]
    small = json.loads(command([python, "-c"], SMALL, json.dumps(arguments)))
    found = np.load(folder / "small.npz")
    own = by_commands(python, folder, sounds)
    hits = [[hit.path for hit in index.search(words, k=5)] for words in WORDS]
    return {
        "packages": small["packages"],
        "import_torch": small["torch"],
        "provider": small["provider"],
        "same_space_id": small["space_id"] == clap.space_id,
        "note_of_the_index": small["note"],
        "lowest_cosine_audio": float((found["audio"] * clap.embed_audio(sounds)).sum(1).min()),
        "lowest_cosine_text": float((found["text"] * clap.embed_text(WORDS)).sum(1).min()),
        "same_classes": small["classes"] == [[label for label, _ in row] for row in clap.classify(sounds, LABELS)],
        "same_hits": small["hits"] == hits,
        "same_hits_own_index": own["hits"] == hits,
        "largest_difference_embed_command": float(np.abs(own["vectors"] - found["audio"]).max()),
        "same_labels_classify_command": own["labels"] == small["classes"][0][: len(own["labels"])],
    }


def small_environment(place: Path) -> str:
    """A new environment with the extra `onnx`, built from a copy of this repository; returns its interpreter."""
    venv.create(place, with_pip=True)
    python = str(place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    source = place.with_name("source")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "clapkit", source / "clapkit", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command(pip, "-c", str(source / "constraints.txt"), f"{source}[onnx]")
    return python


def by_commands(python: str, folder: Path, sounds: list[str]) -> dict[str, Any]:
    """embed, classify, index and search as commands of the small environment."""
    door, model = [python, "-m", "clapkit.cli.main"], ["--model", str(folder / "exported")]
    command(door, "embed", *sounds, *model, "--out", str(folder / "vectors.npz"))
    (one,) = json.loads(command(door, "classify", sounds[0], *model, "--labels", ",".join(LABELS), "--json"))
    command(door, "index", *sounds, *model, "--out", str(folder / "own"))
    hits = [json.loads(command(door, "search", str(folder / "own"), words, "--k", "5", "--json")) for words in WORDS]
    rows = np.load(folder / "vectors.npz")
    return {
        "vectors": rows["vector"][[rows["path"].tolist().index(sound) for sound in sounds]],
        "labels": [row["label"] for row in one["labels"]],
        "hits": [[hit["path"] for hit in row] for row in hits],
    }


def command(door: list[str], *words: str) -> str:
    """Run a program; its standard output."""
    done = subprocess.run([*door, *words], capture_output=True, text=True, encoding="utf-8", env=alone())
    if done.returncode:
        raise SystemExit(f"{' '.join([*door[1:], *words])[:300]}\nexit status {done.returncode}\n{done.stderr}")
    return done.stdout


def alone() -> dict[str, str]:
    """The environment variables without what would let the small environment find packages of the large one."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


if __name__ == "__main__":
    main()
