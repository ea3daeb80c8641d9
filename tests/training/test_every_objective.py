"""Every objective that `train` can feed takes steps in a whole run; others are refused before anything is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clapkit.errors import RecipeError
from clapkit.objectives.combine import Matryoshka, weighted
from clapkit.objectives.composition import ModularContrast
from clapkit.objectives.contrast import CWCL, InfoNCE, KappaNCE, TransformNCE
from clapkit.objectives.distill import AffinityDistillation, CosineDistillation, CrossPrediction
from clapkit.objectives.frames import AttendedNCE, FrameSigmoid, PriorBCE
from clapkit.objectives.hardness import DCLR, HNNCE, DebiasedNCE
from clapkit.objectives.label import ClassTargets, RankNContrast, SupCon
from clapkit.objectives.margin import HardNegativeSoftplus, MaxMargin
from clapkit.objectives.masked import MaskedLatent, MaskedReconstruction
from clapkit.objectives.order import TemporalNCE
from clapkit.objectives.redundancy import BarlowTwins, VICReg
from clapkit.objectives.siamese import Siamese
from clapkit.training.companions import Predictors, Teacher
from clapkit.training.loop import train
from clapkit.views.sequence import Concatenate

TEACHER, PREDICTORS = Teacher(source="ema"), Predictors(hidden_width=8)
FED = [
    (KappaNCE(), ()),
    (CWCL(), (TEACHER,)),
    (HNNCE(), ()),
    (DebiasedNCE(), ()),
    (DCLR(), (TEACHER,)),
    (MaxMargin(), ()),
    (HardNegativeSoftplus(), ()),
    (ModularContrast(), ()),
    (SupCon(), ()),
    (ClassTargets(), ()),
    (AttendedNCE(), ()),
    (VICReg(), ()),
    (BarlowTwins(), ()),
    (Siamese(), (TEACHER, PREDICTORS)),
    (CosineDistillation(), (TEACHER,)),
    (AffinityDistillation(), (TEACHER,)),
    (CrossPrediction(), (PREDICTORS,)),
    (weighted((InfoNCE(), 1.0), (HardNegativeSoftplus(), 0.5)), ()),
    (Matryoshka(InfoNCE(), (8, 16)), ()),
]
NOT_FED = [
    (TransformNCE(), "text_other"),
    (FrameSigmoid(), "text_prior"),
    (PriorBCE(), "text_prior"),
    (TemporalNCE(), "audio_private"),
    (RankNContrast(), "value"),
    (MaskedReconstruction(), "rebuilt"),
    (MaskedLatent(), "hidden"),
]


@pytest.mark.parametrize(("objective", "beside"), FED, ids=[type(objective).__name__ for objective, _ in FED])
def test_it_trains(objective, beside, tiny_recipe, toy_clips, tmp_path):
    prompts, *others = tiny_recipe.views
    wrong = Concatenate(p=0.5, longest_s=0.5, gap_s=(0.0, 0.05))  # brings captions that are false
    numbers = replace(tiny_recipe.train, steps=2, log_every=1, ema=0.9 if TEACHER in beside else None)
    recipe = tiny_recipe.but(objective=objective, beside=beside, views=(prompts, wrong, *others), train=numbers)
    run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu")
    assert run is not None
    assert [isinstance(record["loss"], float) for record in run.log()] == [True, True]  # "nan" would be text


@pytest.mark.parametrize(("objective", "need"), NOT_FED, ids=[type(objective).__name__ for objective, _ in NOT_FED])
def test_what_nobody_fills_is_named_before_anything_is_written(objective, need, tiny_recipe, toy_clips, tmp_path):
    with pytest.raises(RecipeError, match=need):
        train(tiny_recipe.but(objective=objective), toy_clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
