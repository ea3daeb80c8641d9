"""The small model of `clapkit demo`: four-second clips of a procedural sound world, told apart by their captions.

Differs from `contrastive`: captions alone teach (no prompts made from labels), the sound is not rotated, because the
captions say what comes first, and levels change little, because they say what is loud.
Run:     clapkit train soundworld --data world/manifest.jsonl --split split=train --out run
Cost:    about 2.5 min on 2 cores for 1,800 clips.  Effect: see the report of `clapkit demo`
"""

from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.model import Windowing
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.spec import derive
from clapkit.train_settings import TrainSettings
from clapkit.views.audio import Gain
from clapkit.views.mixtures import MixClips
from clapkit.views.spectrogram import SpecAugment

recipe = contrastive.but(
    model=derive(contrastive.model, windowing=Windowing(window_s=4.0, hop_s=2.0)),
    views=(Gain(low_db=-2.0, high_db=2.0), MixClips(p=0.3), SpecAugment()),
    batch=BatchSize(clips=64, clip_s=4.0),
    texts=TextChoice(caption_share=1.0, bank=192),
    train=TrainSettings(epochs=12, lr=2e-3, warmup_steps=40),
)
