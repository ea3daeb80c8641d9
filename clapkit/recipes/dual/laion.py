"""LAION-CLAP: HTS-AT and a sentence encoder, symmetric InfoNCE (card 000).

Differs from `contrastive`: the front-end and the tower of LAION, clips of 10 s, a head of two layers on either side, no
mixed sounds and no further texts in the batch. The sentence encoder is frozen; LAION trains a RoBERTa along.
Run:     clapkit train laion --data clips.jsonl --out run
Cost:    not measured yet; the batch of 96 clips of 10 s is one for accelerators, --scale tiny runs anywhere
Effect:  not measured yet; the public checkpoints of this method load by name (docs/checkpoints.md)
"""

from clapkit.audio.mel import LAION
from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.heads.projection import MLP
from clapkit.model import Windowing
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.spec import derive, spec
from clapkit.towers.htsat import htsat_tiny
from clapkit.train_settings import TrainSettings
from clapkit.views.captions import LabelPrompts
from clapkit.views.spectrogram import SpecAugment

recipe = contrastive.but(
    model=derive(
        contrastive.model,
        frontend=LAION,
        audio=htsat_tiny,
        audio_head=spec(MLP),
        text_head=spec(MLP),
        dimension=512,
        windowing=Windowing(window_s=10.0, hop_s=10.0, fill="repeat-pad"),
    ),
    views=(LabelPrompts(), SpecAugment(time_share=0.064)),
    batch=BatchSize(clips=96, clip_s=10.0),
    texts=TextChoice(caption_share=1.0, bank=0),
    train=TrainSettings(epochs=45, lr=1e-4, warmup_steps=3200, weight_decay=0.0, beta2=0.99),
    scales={
        "tiny": {
            "model.audio.width": 12, "model.audio.depths": (2, 2), "model.audio.heads": (2, 4),
            "model.audio.image": 128, "batch.clips": 8, "train.epochs": 2, "train.warmup_steps": 4, "train.lr": 1e-3,
        },
        "small": {"batch.clips": 16, "train.warmup_steps": 200},
        "paper": {},
    },
)  # fmt: skip
