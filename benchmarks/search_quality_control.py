"""The control of `search_quality.py`: the model it asks, trained in the same way with the texts of other clips.

    python benchmarks/search_quality_control.py --data DATA --out RUNS
    python benchmarks/search_quality.py RUNS/laion-0 --data DATA --json benchmarks/results/search_quality.json \\
        --name "laion arm, texts shuffled, seed 0" --trained-on "..."

Arm `laion` of `proofs/slap_batch16.py`, tower and heads, trained on the clips of folds 1 to 4 whose labels and captions
were dealt anew among them (seed 7, as that proof does for its own control). What such a model finds by names, it finds
by chance; what it finds by sound, its tower has from the sounds alone. What has been trained is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clapkit.data.manifest import read_all

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "proofs"))

import slap_batch16 as proof


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc50/")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    clips = [
        clip for clip in read_all([given.data / "esc50" / "manifest.csv"]).clips if clip.split in proof.TRAIN_FOLDS
    ]
    print(proof.trained("laion", given.seed, proof.shuffled(clips), given.out / f"laion-{given.seed}"))


if __name__ == "__main__":
    main()
