"""clapkit-tiny: the small model that comes with the package, from the manifests to the model folder.

Differs from `open_words`: sources in stated shares, the average of the weights is the result, noise under some sounds,
and (by the command below) the sentence encoder distilled into a table of 256 numbers a token.
Run:     python -m clapkit.recipes.released.tiny --data DATA --out OUT [--variant research]
Cost:    5,000 steps of 64 clips, about an hour on 2 quiet cores with the text side.  Effect: see docs/tiny.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from clapkit.building.released.making import Plan, make
from clapkit.recipes.dual.open_words import recipe as open_words
from clapkit.train_settings import TrainSettings
from clapkit.views.audio import Gain, NoiseAtSNR, TimeShift
from clapkit.views.captions import LabelPrompts
from clapkit.views.mixtures import MixClips
from clapkit.views.spectrogram import SpecAugment

recipe = open_words.but(
    views=(LabelPrompts(), TimeShift(), MixClips(p=0.5), NoiseAtSNR(low_db=10.0, p=0.15), Gain(), SpecAugment()),
    train=TrainSettings(steps=5000, lr=2e-3, ema=0.999, checkpoint_s=120.0, log_every=20),
)
SHARES = {
    "esc50": 0.5,
    "berklee": 0.22,
    "cc_sounds": 0.1,
    "instruments": 0.06,
    "sonic_pi": 0.04,
    "sms_sounds": 0.02,
    "soundworld": 0.03,
    "emodb": 0.015,
    "fsdd": 0.015,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make clapkit-tiny from a folder of sounds with manifests.")
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds a folder for each set")
    parser.add_argument("--out", type=Path, required=True, help="where everything goes; a stopped run goes on")
    parser.add_argument("--variant", choices=("released", "research"), default="released")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    plan = Plan(data=arguments.data, out=arguments.out, variant=arguments.variant, shares=SHARES)
    print(make(plan, recipe, device=arguments.device, progress=True).model_path)


if __name__ == "__main__":
    main()
