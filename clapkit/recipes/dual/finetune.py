"""A given model trained further on your own sound: any checkpoint, any family.

Differs from `contrastive`: the model is the one of --from, and clips are as long as its windows. The sound side learns,
its lower blocks more slowly, with the batch statistics that it came with; texts keep their vectors. The result lies
between the given weights and the trained ones, which forgets less of what the model could do before.
Run:     clapkit train finetune --from CHECKPOINT --data FOLDER --out run
Cost:    on 2 cores
Effect:  see docs/finetune.md
"""

from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.train_settings import TrainSettings, TuneSettings

recipe = contrastive.but(
    model=None,
    tune=TuneSettings(learns="audio_head", layer_decay=0.75, batch_norm="frozen", blend=1.0),
    batch=BatchSize(clips=8, clip_s=10.0),
    texts=TextChoice(caption_share=0.5, bank=64),
    train=TrainSettings(epochs=20, lr=1e-3, warmup_steps=10, weight_decay=0.01, precision="fp32"),
    scales={
        "tiny": {"batch.clips": 8, "texts.bank": 16, "train.epochs": 2},
        "small": {},
        "paper": {"batch.clips": 64, "train.lr": 1e-4, "tune.learns": "audio", "tune.blend": 0.5},
    },
)
