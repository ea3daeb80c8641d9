"""ESC-50, classes seen: one model trained on folds 1 to 4, read once on fold 5.

Pre-registered
    arm        recipe `contrastive` as it stands, ESC-50 alone, folds 1-4, last checkpoint; its settings were chosen on
               folds 1 and 2 for training and fold 3 for judging
    metrics    top-1 on fold 5 with "this is the sound of {}"                                must 0.73, aim 0.80
               the same with three templates never trained on, and with a synonym of each
               name (esc50_words.py), under the same template                               each loses at most 0.10
               caption retrieval on fold 5, recall at 10, text to audio and audio to text    at least 5 x chance
               label search: R-precision by bare class name, mean over the 50                must 0.55, aim 0.65
    intervals  bootstrap over recordings (Freesound ids), 95 %

Run
    clapkit train contrastive --data DATA/esc50/manifest.csv --split split=fold1,fold2,fold3,fold4 --out RUN
    python proofs/esc50_seen.py RUN --data DATA/esc50/manifest.csv
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from esc50_words import NEW_TEMPLATES, SYNONYMS

import clapkit
from clapkit.data.manifest import read
from clapkit.evaluation.retrieval import label_search, retrieval
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.text.prompts import DEFAULT

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the run trained on folds 1-4")
    parser.add_argument("--data", required=True, help="manifest of ESC-50")
    parser.add_argument("--fold", default="fold5")
    parser.add_argument("--out", default=str(RESULTS / "esc50_seen.json"))
    arguments = parser.parse_args()

    clap = clapkit.load(arguments.run)
    clips = read(arguments.data, splits={"split": [arguments.fold]}).clips
    labels = [clip.label for clip in clips]
    recordings = [str(clip.meta["freesound_id"]) for clip in clips]
    names = sorted(set(labels))
    audio = clap.embed_audio([clip.audio for clip in clips], progress=True)

    def top1(phrases: list[str], template: str) -> dict:
        vectors = class_vectors(clap.embed_text, phrases, [template])
        result = zero_shot(audio, labels, names, vectors, groups=recordings)
        return result.to_json()["metrics"]["accuracy"]

    captions = [clip.captions[0] for clip in clips]
    ranks = retrieval(audio, clap.embed_text(captions), list(range(len(clips))), texts=captions, groups=recordings)
    search = label_search(audio, labels, clap.embed_text(names), names, groups=recordings)
    figures = {
        "n": len(clips),
        "fold": arguments.fold,
        "pipeline_id": clap.pipeline_id,
        "top1": {DEFAULT: top1(names, DEFAULT), "{}": top1(names, "{}")},
        "top1_new_templates": {template: top1(names, template) for template in NEW_TEMPLATES},
        "top1_synonyms": top1([SYNONYMS[name] for name in names], DEFAULT),
        "retrieval": {k: v for k, v in ranks.to_json()["metrics"].items() if "r@" in k or "map" in k},
        "label_search": search.to_json()["metrics"],
    }
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
