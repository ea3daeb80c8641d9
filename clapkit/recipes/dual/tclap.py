"""T-CLAP: the order of events matters (card 006).

Differs from `contrastive`: half of the clips are joined in a known order, and their captions with the events exchanged
are wrong texts of their own; a tower that mixes over time, and heads that learn on either side, because a frozen
sentence encoder hardly tells the two orders apart. Sounds are not rotated and not mixed: captions would be false.
Run:     clapkit train tclap --data clips.jsonl --out run
Cost:    not measured yet.  Effect: not measured yet
"""

from clapkit.heads.projection import MLP
from clapkit.objectives.combine import weighted
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.margin import HardNegativeSoftplus
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.spec import derive, spec
from clapkit.towers import vit
from clapkit.views.audio import Gain
from clapkit.views.captions import LabelPrompts
from clapkit.views.sequence import Concatenate
from clapkit.views.spectrogram import SpecAugment

recipe = contrastive.but(
    model=derive(contrastive.model, audio=vit.small, audio_head=spec(MLP), text_head=spec(MLP)),
    objective=weighted((InfoNCE(private=False), 1.0), (HardNegativeSoftplus(), 0.5)),
    views=(LabelPrompts(), Gain(), Concatenate(longest_s=5.0, p=0.5), SpecAugment()),
    scales={
        "tiny": {"model.audio.width": 48, "model.audio.depth": 2, "batch.clips": 8, "train.epochs": 2, "texts.bank": 8},
        "small": {},
        "paper": {"model.audio.width": 384, "model.audio.depth": 12, "model.audio.heads": 6, "batch.clips": 256},
    },
)
