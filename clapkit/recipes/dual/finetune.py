"""A given model trained further on your own sound: any checkpoint, any family.

Differs from `contrastive`: the model is the one of --from, and clips are as long as its windows. The head of the sound
side learns; towers stay, and texts keep their vectors. tune.learns=audio moves the tower too, at a tenth of the rate,
lower blocks more slowly still; tune.blend < 1 gives back some of what was forgotten.
Run:     clapkit train finetune --from CHECKPOINT --data FOLDER --out run
Cost:    on 2 cores, 50 clips: 6 s with a tower of 2.4 M; HTSAT-tiny of LAION: a minute for an epoch of 100 clips
Effect:  +56 points top-1 on ten new classes of ESC-50 from five clips each, -4 on the old ones (docs/finetune.md)
"""

from clapkit.data.batches import BatchSize
from clapkit.data.texts import TextChoice
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.train_settings import TrainSettings, TuneSettings

recipe = contrastive.but(
    model=None,
    tune=TuneSettings(learns="audio_head", tower_rate=0.1, layer_decay=0.75, batch_norm="frozen", blend=1.0),
    batch=BatchSize(clips=8, clip_s=10.0),
    texts=TextChoice(caption_share=0.5, bank=64),
    train=TrainSettings(epochs=20, lr=1e-3, warmup_steps=10, weight_decay=0.01, precision="fp32"),
    scales={
        "tiny": {"batch.clips": 8, "texts.bank": 16, "train.epochs": 2},
        "small": {},
        "paper": {"batch.clips": 64, "tune.learns": "audio", "tune.blend": 0.5},
    },
)
