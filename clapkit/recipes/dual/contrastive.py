"""Contrastive learning of sound and language: the recipe from which the others derive.

A small residual network learns, from nothing, to put sound where a frozen sentence encoder puts its description.
Mixed sounds, masked mels and prompts made from labels stand in for the data that a small set lacks; at the end the
sound side is anchored in the sentences of the training set, so that other words for the same thing score alike.

Run:     clapkit train contrastive --data clips.jsonl --out run
Cost:    about 25 min on 2 cores for 1,600 clips of 5 s.  Effect: see docs/esc50.md
"""

from clapkit.audio.mel import ECONOMICAL
from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.heads.anchors import AnchoredLinear
from clapkit.heads.projection import Keep
from clapkit.model import DualEncoder, Windowing
from clapkit.objectives.contrast import InfoNCE
from clapkit.recipe import Recipe
from clapkit.spec import spec
from clapkit.towers.pretrained import pretrained_text
from clapkit.towers.resnet import ResNetTower
from clapkit.train_settings import TrainSettings
from clapkit.views.audio import Gain, TimeShift
from clapkit.views.captions import LabelPrompts
from clapkit.views.mixtures import MixClips
from clapkit.views.spectrogram import SpecAugment

recipe = Recipe(
    model=spec(
        DualEncoder,
        frontend=ECONOMICAL,
        audio=spec(ResNetTower, width=32),
        text=spec(pretrained_text),
        audio_head=spec(AnchoredLinear),
        text_head=spec(Keep),
        windowing=Windowing(window_s=5.0, hop_s=2.5),
    ),
    objective=InfoNCE(),
    views=(LabelPrompts(), TimeShift(), Gain(), MixClips(p=0.5), SpecAugment()),
    batch=BatchSize(clips=64, clip_s=5.0),
    texts=TextChoice(caption_share=0.5, bank=64),
    train=TrainSettings(epochs=120, lr=2e-3),
    scales={
        "tiny": {
            "model.audio.width": 8,
            "batch.clips": 16,
            "texts.bank": 16,
            "train.epochs": 2,
            "train.warmup_steps": 4,
        },
        "small": {},
        "paper": {"model.audio.width": 64, "batch.clips": 256, "train.lr": 1e-3},
    },
)
