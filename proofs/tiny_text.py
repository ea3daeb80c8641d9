"""What a table of token vectors keeps of the sentence encoder that it was distilled from.

    names      the 50 class names of ESC-50 in "this is the sound of {}": mean cosine of table and encoder
    captions   400 captions of Clotho, which the table never saw: the same; and how often the fourth caption of a sound
               is among the ten nearest of its third, by the encoder and by the table
    synonyms   how often the nearest of the 50 names is the right one for another plain name of a class
               (esc50_words.py)
    swapped    zero-shot of a model that was trained with the encoder, by the encoder's class vectors and by the
               table's, turned back into the encoder's space: clips of the splits that the model did not hear

Run     python proofs/tiny_text.py --data DATA --out OUT [--run RUN --splits fold3,fold4]
OUT is the folder that `clapkit.recipes.released.tiny` wrote; RUN a run of a recipe whose text tower is the encoder.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from esc50_words import SYNONYMS
from torch.nn import functional as F

import clapkit
from clapkit.data.manifest import read
from clapkit.text.prompts import DEFAULT, fill
from clapkit.text.tokenizers import TextTokenizer
from clapkit.towers.pretrained import pretrained_text
from clapkit.towers.static import static_text

RESULTS = Path(__file__).parent / "results" / "tiny_text.json"
NAMES = sorted(SYNONYMS)
Embed = Callable[[Sequence[str]], torch.Tensor]


def embedder(tower: torch.nn.Module, folder: Path) -> Embed:
    tokenizer = TextTokenizer(folder, max_tokens=tower.max_tokens)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> torch.Tensor:
        ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(list(texts)))
        return F.normalize(tower(ids, mask).summary_BD, dim=1)

    return embed


def captions(data: Path, column: str) -> list[str]:
    with gzip.open(data / "captions" / "clotho.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [row[column] for row in csv.DictReader(file)][:400]


def fidelity(encoder: Embed, table: Embed, turn_WD: torch.Tensor, data: Path) -> dict:
    third, fourth = captions(data, "caption_3"), captions(data, "caption_4")
    names, synonyms = [fill(DEFAULT, name) for name in NAMES], [SYNONYMS[name] for name in NAMES]

    def cosine(texts: list[str]) -> float:
        return float((table(texts) * F.normalize(encoder(texts) @ turn_WD, dim=1)).sum(1).mean())

    def by(embed: Embed) -> dict[str, float]:
        near = (embed(third) @ embed(fourth).T).topk(10, dim=1).indices
        found = (near == torch.arange(len(third))[:, None]).any(1).float().mean()
        right = (embed(synonyms) @ embed(names).T).argmax(1) == torch.arange(len(names))
        return {"caption_r@10": float(found), "synonym_to_name": float(right.float().mean())}

    told = {"names": cosine(names), "captions": cosine(third), "synonyms": cosine(synonyms)}
    return {"cosine": told, "encoder": by(encoder), "table": by(table)}


def swapped(run: Path, embeds: dict[str, Embed], data: Path, splits: list[str]) -> dict:
    clap = clapkit.load(run)
    clips = read(data / "esc50" / "manifest.csv", splits={"split": splits}).clips
    audio = torch.from_numpy(clap.embed_audio([clip.audio for clip in clips], progress=True))
    labels = np.array([NAMES.index(clip.label) for clip in clips])
    asked = {"names": [fill(DEFAULT, name) for name in NAMES], "bare": NAMES}
    asked["synonyms"] = [fill(DEFAULT, SYNONYMS[name]) for name in NAMES]
    with torch.no_grad():
        return {
            what: {
                way: float((((audio @ clap.model.project_text(embed(texts)).T).argmax(1)).numpy() == labels).mean())
                for way, texts in asked.items()
            }
            for what, embed in embeds.items()
        } | {"clips": len(clips)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder that the recipe wrote")
    parser.add_argument("--run", type=Path, help="a run whose text tower is the encoder")
    parser.add_argument("--splits", default="fold3,fold4", help="what that run did not hear")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    teacher, tower = pretrained_text(), static_text(str(arguments.out / "text"))
    encoder, table = embedder(teacher, teacher.folder), embedder(tower, tower.folder)
    turn_WD = torch.from_numpy(np.load(tower.folder / "turn.npy"))
    found = json.loads((arguments.out / "text" / "distilled.json").read_text(encoding="utf-8"))
    found |= fidelity(encoder, table, turn_WD, arguments.data)
    if arguments.run:
        embeds = {"encoder": encoder, "table": lambda texts: table(texts) @ turn_WD.T}
        found["swapped"] = swapped(arguments.run, embeds, arguments.data, arguments.splits.split(","))
    arguments.results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
