"""SLAP: sound and language predict each other, without negatives (card 077).

Differs from `contrastive`: the objective is Siamese, taught by the moving average of the weights through predictors, so
that a batch of 16 does; both sides end in a small network of their own, because both have to come towards each other,
and in their predictor: predictions are what meets (before them the gap is wider than after InfoNCE).
Run:     clapkit train slap --data clips.jsonl --out run
Cost:    1.5 times the core time of `contrastive` at the same batch (16 clips of 5 s: 0.40 s against 0.27 a step)
Effect:  new heads on a given tower, batches of 16, ESC-50 fold 5, 3 seeds: gap between sounds and captions 0.182, with
         InfoNCE 0.289 (-0.100 [-0.110, -0.091]); top-1 65.0 and 63.6 %; the gap to bare class names is wider (0.35 and
         0.28) (proofs/slap_batch16.py). A small tower that learns from nothing is better taught by `contrastive` first
"""

from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.heads.projection import MLP
from clapkit.objectives.siamese import Siamese
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.spec import derive, spec
from clapkit.train_settings import TrainSettings
from clapkit.training.companions import Predictors, Teacher

recipe = contrastive.but(
    model=derive(contrastive.model, audio_head=spec(MLP, hidden_width=1024), text_head=spec(MLP, hidden_width=1024)),
    objective=Siamese(inter=0.5),
    beside=(Teacher(source="ema"), Predictors(hidden_width=2048, result=True)),
    batch=BatchSize(clips=16, clip_s=5.0),
    texts=TextChoice(caption_share=0.5, bank=0),
    train=TrainSettings(epochs=120, lr=1e-3, ema=0.995, ema_warmup=False, ema_result=False),
    scales={
        "tiny": {"model.audio.width": 8, "beside.1.hidden_width": 64, "train.epochs": 2, "train.warmup_steps": 4},
        "small": {},
        "paper": {"model.audio.width": 64, "batch.clips": 64},
    },
)
