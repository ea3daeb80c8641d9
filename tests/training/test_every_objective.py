"""Every objective takes steps in a whole run; data that lack what it reads are refused before anything is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clapkit import native
from clapkit.data.texts import TextChoice
from clapkit.errors import RecipeError
from clapkit.heads.framewise import FramewiseHead
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
from clapkit.objectives.redundancy import BarlowTwins, Sparsity, VICReg
from clapkit.objectives.siamese import Siamese
from clapkit.spec import derive, spec
from clapkit.towers.vit import PatchTransformer
from clapkit.training.beside.masking import HiddenPatches
from clapkit.training.beside.priors import TextPriors
from clapkit.training.beside.transforms import Transforms
from clapkit.training.companions import Predictors, Teacher
from clapkit.training.loop import train
from clapkit.views.measured import Values
from clapkit.views.sequence import Concatenate, OrderContrast

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
    (weighted((InfoNCE(), 1.0), (Sparsity(), 1.0)), ()),
    (TransformNCE(), ()),
    (TransformNCE(), (Transforms(hidden_width=8),)),
    (FrameSigmoid(), (TextPriors(batches=2),)),
    (PriorBCE(), (TextPriors(batches=2),)),
]
NOT_FED = [
    (FrameSigmoid(), "text_prior"),
    (PriorBCE(), "text_prior"),
    (FrameSigmoid(offset="bias", steepness="text_scale"), "text_scale"),
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


def finished(recipe, clips, tmp_path) -> list[dict]:
    """The log of two steps, each with a loss."""
    numbers = replace(recipe.train, steps=2, log_every=1, warmup_steps=0)
    run = train(recipe.but(train=numbers), clips, out=tmp_path / "run", device="cpu")
    assert run is not None and [isinstance(record["loss"], float) for record in run.log()] == [True, True]
    return run.log()


def with_numbers(clips):
    return tuple(clip.with_(meta={"pitch": str(300 + 100 * n), "mood": n % 3}) for n, clip in enumerate(clips))


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 1.0)], ids=["reverse", "both kinds"])
def test_order_is_learnt_from_wrong_sounds_and_wrong_captions(weights, tiny_recipe, toy_clips, tmp_path):
    prompts, *others = tiny_recipe.views
    kinds = ("reverse", "overlay")[: len(weights)]
    made = OrderContrast(p=0.7, longest_s=0.5, gap_s=(0.0, 0.05), kinds=kinds)
    recipe = tiny_recipe.but(objective=TemporalNCE(weights=weights), views=(prompts, made, *others))
    finished(recipe.with_set("train.micro_batch", 3).with_set("train.batch_norm", "frozen"), toy_clips, tmp_path)


@pytest.mark.parametrize("between", ["audio_text", "audio"])
def test_clips_are_ordered_by_their_columns(between, tiny_recipe, toy_clips, tmp_path):
    views = (Values(("pitch", "mood"), units=(100.0, 1.0)), *tiny_recipe.views)
    recipe = tiny_recipe.but(objective=RankNContrast(between=between), views=views)
    finished(recipe, with_numbers(toy_clips), tmp_path)


def flam(tiny_recipe, **changes):
    """FLAM: a frame loss with the prior and the steepness of each text, beside the loss of whole clips (card 049)."""
    prompts, *others = tiny_recipe.views
    events = Concatenate(p=1.0, longest_s=0.5, gap_s=(0.0, 0.05))
    return tiny_recipe.but(
        model=derive(tiny_recipe.model, framewise=spec(FramewiseHead, text_width=32, hidden_width=8)),
        objective=weighted((InfoNCE(), 1.0), (FrameSigmoid(steepness="text_scale"), 20.0), (PriorBCE(), 1.0)),
        views=(prompts, events, *others),
        texts=TextChoice(bank=4, events=True),
        **changes,
    )


@pytest.mark.parametrize("beside", [(), (TextPriors(batches=2),)], ids=["as published", "counted"])
@pytest.mark.parametrize("frozen_text", [True, False])
def test_flam_trains_its_frame_head(beside, frozen_text, tiny_recipe, toy_clips, tmp_path):
    recipe = flam(tiny_recipe, beside=beside).with_set("model.frozen_text", frozen_text)
    first, _ = finished(recipe, toy_clips, tmp_path)
    assert {"frames", "text_prior", "audio_to_text"} <= first.keys()
    kept = native.load(tmp_path / "run").model.framewise.bias.linear2.bias.item()
    assert (abs(kept + 8) < 0.1) == (not beside)


@pytest.mark.parametrize("target", ["patches", "teacher"])
def test_hidden_patches_are_foretold(target, tiny_recipe, toy_clips, tmp_path):
    hidden = HiddenPatches(share=0.5, target=target, width=16, depth=1, heads=2)
    foretold = MaskedReconstruction() if target == "patches" else MaskedLatent()
    recipe = tiny_recipe.but(
        model=derive(tiny_recipe.model, audio=spec(PatchTransformer, width=16, depth=1, heads=2, expansion=2)),
        objective=weighted((InfoNCE(), 0.01), (foretold, 1.0)),
        beside=(hidden,),
        train=replace(tiny_recipe.train, ema=0.9 if target == "teacher" else None),
    )
    log = finished(recipe, toy_clips, tmp_path)
    assert log[0]["rebuilt" if target == "patches" else "foretold"] > 0


@pytest.mark.parametrize(("objective", "need"), NOT_FED, ids=[type(objective).__name__ for objective, _ in NOT_FED])
def test_what_nobody_fills_is_named_before_anything_is_written(objective, need, tiny_recipe, toy_clips, tmp_path):
    with pytest.raises(RecipeError, match=need):
        train(tiny_recipe.but(objective=objective), toy_clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_data_that_lack_what_is_read_are_refused_by_name(tiny_recipe, toy_clips, tmp_path):
    alone = tiny_recipe.but(objective=TransformNCE(), views=tiny_recipe.views[1:])
    captioned = [clip.with_(captions=(f"sound {n}",)) for n, clip in enumerate(toy_clips)]
    with pytest.raises(RecipeError, match="TransformNCE needs 'text_other': none of the 24 clips"):
        train(alone, captioned, out=tmp_path / "run", device="cpu")
    ranked = tiny_recipe.but(objective=RankNContrast(), views=(Values(("pitch",)), *tiny_recipe.views))
    clips = [*with_numbers(toy_clips)[:22], *toy_clips[22:]]
    with pytest.raises(RecipeError, match=r"2 of 24 clips have none.*clip22, clip23"):
        train(ranked, clips, out=tmp_path / "run", device="cpu")
    joined = ranked.but(views=(*ranked.views[:2], Concatenate(p=1.0, longest_s=0.5, gap_s=(0.0, 0.1))))
    with pytest.raises(RecipeError, match=r"'value', and of the 8 clips of a batch [1-8] have none"):
        train(joined, with_numbers(toy_clips), out=tmp_path / "joined", device="cpu")
    hidden = tiny_recipe.but(objective=MaskedReconstruction(), beside=(HiddenPatches(),))
    with pytest.raises(RecipeError, match=r"'rebuilt'.*ResNetTower cannot leave any out"):
        train(hidden, toy_clips, out=tmp_path / "run", device="cpu")
    with pytest.raises(RecipeError, match=r"HiddenPatches\(.*set e\.g\. train\.ema=0\.999"):
        taught = derive(tiny_recipe.model, audio=spec(PatchTransformer, width=16, depth=1, heads=2))
        train(hidden.but(model=taught, beside=(HiddenPatches(target="teacher"),)), toy_clips, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
