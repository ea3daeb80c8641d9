"""What the audio towers learn in equal processor time: zero-shot accuracy on a fold of ESC-50 they were not trained on.

Run:   python benchmarks/towers_accuracy.py --data DATA/esc50/manifest.csv --seconds 150

Each arm is the recipe `contrastive` with another tower, for as many steps as fit into the same processor seconds (its
speed is measured first, on this machine), trained on folds 1 and 2 and read on fold 3. One seed: a difference of less
than about 0.05 says nothing. The chosen default is the arm on top; how fast each one is stands in towers.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import clapkit
from clapkit.cookbook import find_recipe
from clapkit.data.manifest import read
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.recipe import Recipe
from clapkit.spec import Spec, derive
from clapkit.text.prompts import DEFAULT
from clapkit.towers import mobilenet, resnet, vit
from clapkit.training.loop import train

ARMS: dict[str, tuple[Spec, dict[str, float]]] = {
    "residual network": (resnet.small, {}),
    "separable convolutions": (mobilenet.small, {}),
    "patch transformer": (vit.small, {"train.lr": 1e-3}),
    "patch transformer, 60 % of tokens dropped": (vit.small, {"train.lr": 1e-3, "train.drop_tokens": 0.6}),
}
PROBE_STEPS = 8


def arm_recipe(tower: Spec, settings: dict[str, float], steps: int) -> Recipe:
    base = find_recipe("contrastive")
    recipe = base.but(model=derive(base.model, audio=tower)).with_set("train.steps", steps)
    for path, value in settings.items():
        recipe = recipe.with_set(path, value)
    return recipe


def processor_seconds(recipe: Recipe, clips, out: Path) -> float:
    started = time.process_time()
    train(recipe, clips, out=out)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="manifest of ESC-50")
    parser.add_argument("--seconds", type=float, default=150.0, help="processor seconds of training for each arm")
    parser.add_argument(
        "--arms", nargs="*", help="only arms whose name holds one of these words; others stay as they are"
    )
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "towers_accuracy.json"))
    arguments = parser.parse_args()
    clips = read(arguments.data, splits={"split": ["fold1", "fold2"]}).clips
    test = read(arguments.data, splits={"split": ["fold3"]}).clips
    names = sorted({clip.label for clip in test})
    out = Path(arguments.out)
    rows = json.loads(out.read_text(encoding="utf-8")) if arguments.arms and out.exists() else []
    for name, (tower, settings) in ARMS.items():
        if arguments.arms and not any(word in name for word in arguments.arms):
            continue
        with tempfile.TemporaryDirectory() as folder:
            short, long = (arm_recipe(tower, settings, n) for n in (PROBE_STEPS, 4 * PROBE_STEPS))
            processor_seconds(short, clips, Path(folder) / "warm")  # decodes, embeds captions, loads libraries
            first = processor_seconds(short, clips, Path(folder) / "a")
            second = processor_seconds(long, clips, Path(folder) / "b")
            step_s = (second - first) / (3 * PROBE_STEPS)
            steps = max(PROBE_STEPS, round(arguments.seconds / step_s))
            used = processor_seconds(arm_recipe(tower, settings, steps), clips, Path(folder) / "run")
            clap = clapkit.load(Path(folder) / "run")
            audio = clap.embed_audio([clip.audio for clip in test])
            vectors = class_vectors(clap.embed_text, names, [DEFAULT])
            groups = [str(clip.meta["freesound_id"]) for clip in test]
            result = zero_shot(audio, [clip.label for clip in test], names, vectors, groups=groups)
            score = result.to_json()["metrics"]["accuracy"]
            size = sum(p.numel() for p in clap.model.audio.parameters())
        row = {"tower": name, "parameters": size, "steps": steps, "processor_s": round(used, 1), "accuracy": score}
        row["clips_per_processor_s"] = round(64 / step_s, 1)
        rows = [*(r for r in rows if r["tower"] != name), row]
        print(row, flush=True)
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
