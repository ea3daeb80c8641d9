"""The contract of every objective."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from torch.nn import functional

from clapkit.objectives.base import NEEDS, Embeddings, Objective
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
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.spec import from_json, to_json

OBJECTIVES = [
    InfoNCE(),
    InfoNCE(balance=0.3, smoothing=0.1),
    InfoNCE(private=False),
    CWCL(),
    CWCL(teacher="audio", sharpness=6.0),
    KappaNCE(),
    TransformNCE(),
    HNNCE(),
    HNNCE(alpha=0.0, detach=False),
    DebiasedNCE(),
    DebiasedNCE(tau_plus=0.05, beta=0.5),
    DCLR(threshold=0.3),
    DCLR(threshold=0.1, reference="both"),
    PairwiseSigmoid(),
    PairwiseSigmoid(labels="soft", chunk_rows=2),
    MaxMargin(),
    MaxMargin(negatives="hardest", balance=0.2),
    HardNegativeSoftplus(),
    HardNegativeSoftplus(side="audio"),
    weighted((InfoNCE(private=False), 1.0), (HardNegativeSoftplus(), 0.5), (CWCL(), 0.1)),
    Matryoshka(InfoNCE(), (3, 8), (0.5, 1.0)),
    Matryoshka(weighted((PairwiseSigmoid(chunk_rows=3), 1.0), (MaxMargin(), 2.0)), (8, 2)),
    Siamese(),
    Siamese(inter=0.9),
    VICReg(),
    VICReg(against="text", deviation=0.8),
    BarlowTwins(),
    BarlowTwins(against="text", redundancy=0.02),
    Sparsity(),
    MaskedReconstruction(),
    MaskedReconstruction(normalise=False),
    MaskedLatent(),
    MaskedLatent(standardise=False),
    CosineDistillation(),
    CosineDistillation(side="text"),
    AffinityDistillation(balance=0.3),
    CrossPrediction(balance=0.3),
    SupCon(),
    SupCon(other_views=True, temperature=0.1),
    ClassTargets(),
    ClassTargets(PairwiseSigmoid(), by="tag"),
    RankNContrast(),
    RankNContrast(between="audio", distance="l1"),
    ModularContrast(balance=0.3),
    TemporalNCE(weights=(1.0, 0.0, 0.5)),
    TemporalNCE(weights=(0.0, 2.0, 1.0), both_sides=False),
    FrameSigmoid(chunk_texts=2),
    FrameSigmoid(offset="bias"),
    FrameSigmoid(steepness="text_scale"),
    PriorBCE(),
    AttendedNCE(chunk_texts=2),
]
# What an objective reads as a constant though a gradient could flow: class name -> words of its `needs`.
HELD_STILL: dict[str, set[str]] = {"FrameSigmoid": {"text_prior"}}

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def axes(name: str) -> str:
    """The letters that end a field's name: "BKD" of text_private_BKD, none of scale."""
    tail = name.rpartition("_")[2]
    return tail if tail.isupper() else ""


def word(name: str) -> str:
    """The field as `needs` spells it."""
    return name.removesuffix(f"_{axes(name)}") if axes(name) else name


def embeddings(clips: int = 5, texts: int | None = None, *, seed: int = 0) -> Embeddings:
    """Every field, of random numbers in float64; every axis has a length of its own, but for clips and texts.

    What a model makes has a gradient, what is known (targets, masks, labels, teachers) has none.
    """
    texts = clips if texts is None else texts
    generator = torch.Generator().manual_seed(seed)
    sizes = {"B": clips, "U": texts, "D": 8, "E": 2, "F": 12, "K": 3, "C": 4, "V": 9, "T": 6, "N": 7, "P": 10}

    def shape(name: str) -> tuple[int, ...]:
        return tuple(sizes[letter] for letter in axes(name))

    def normal(name: str) -> torch.Tensor:
        return torch.randn(shape(name), generator=generator, dtype=torch.float64)

    def chance(name: str, p: float) -> torch.Tensor:
        return torch.rand(shape(name), generator=generator) < p

    made: dict[str, torch.Tensor] = {
        "scale": torch.tensor(10.0, dtype=torch.float64),
        "bias": torch.tensor(-5.0, dtype=torch.float64),
        "teacher_scale": torch.tensor(20.0, dtype=torch.float64),
        "soft_target_BU": torch.eye(texts, dtype=torch.float64)[torch.arange(clips) % texts],
        "label_B": torch.tensor([0, 1, 0, -1, 1])[torch.arange(clips) % 5],
    }
    for name in ("include_BU", "private_BK", "audio_private_UK", "frame_mask_BT", "hidden_BN"):
        made[name] = chance(name, 0.7)
    made["frame_mask_BT"][:, 0] = True
    made["tag_BC"] = chance("tag_BC", 0.4).double()
    made["events_BUT"] = chance("events_BUT", 0.5).double().masked_fill(chance("events_BUT", 0.2), float("nan"))
    for name in ("value_BV", "text_prior_U", "text_scale_U", "rebuilt_BNP", "hidden_BNP"):
        made[name] = normal(name)
    for f in fields(Embeddings):
        if f.name not in made:
            made[f.name] = functional.normalize(normal(f.name), dim=-1)
    known = ("teacher_scale", "value_BV", "tag_BC", "hidden_BNP", "soft_target_BU", "events_BUT")
    for name, value in made.items():
        if value.is_floating_point() and "teacher" not in name and name not in known:
            value.requires_grad_()
    return Embeddings(**made)


def reordered(z: Embeddings, clips: torch.Tensor, texts: torch.Tensor) -> Embeddings:
    """The same batch with its clips and its texts in another order, in every field and on every axis."""
    changes = {}
    for f in fields(z):
        for axis, letter in enumerate(axes(f.name)):
            if letter in "BU":
                turned = changes.get(f.name, getattr(z, f.name))
                changes[f.name] = turned.index_select(axis, clips if letter == "B" else texts)
    return replace(z, **changes)


def total(parts) -> torch.Tensor:
    return sum(parts.values())


def test_the_test_fills_every_field_and_its_first_axis_is_what_the_field_says():
    z = embeddings()
    for f in fields(z):
        assert getattr(z, f.name) is not None
        assert f.metadata["rows"] == {"B": "clips", "U": "texts"}.get(axes(f.name)[:1], "all")


@every_objective
def test_declares_what_it_needs_and_how_it_reduces(objective):
    assert isinstance(objective, Objective)
    assert isinstance(objective.needs, tuple) and set(objective.needs) <= set(NEEDS)
    assert len(set(objective.needs)) == len(objective.needs)
    assert objective.reduces in ("samples", "pairs", "rows")
    assert not {"needs", "reduces"} & {f.name for f in fields(objective)}, "they belong to the class"


@every_objective
def test_gives_named_finite_scalars_and_is_repeatable(objective):
    parts, again = objective(embeddings()), objective(embeddings())
    assert parts and all(isinstance(name, str) for name in parts)
    for name, part in parts.items():
        assert part.shape == () and torch.isfinite(part)
        assert torch.equal(part, again[name])


@every_objective
def test_reads_no_more_than_it_says(objective):
    """Fields that it may honour when they are there (masks, negatives) may be missing; those in `needs` may not."""
    z = embeddings()
    base = ("audio_BD", "text_UD", "scale", "bias", "teacher_scale", "soft_target_BU")
    # With vectors come the masks that say which of them are there.
    beside = {"private_BK": "text_private", "frame_mask_BT": "frames"}
    kept = {
        f.name
        for f in fields(z)
        if f.name in base or word(f.name) in objective.needs or beside.get(f.name) in objective.needs
    }
    lean = replace(z, **{f.name: None for f in fields(z) if f.name not in kept})
    assert torch.isfinite(total(objective(lean)))


@every_objective
def test_the_gradient_reaches_all_that_it_needs(objective):
    z = embeddings()
    total(objective(z)).backward()
    if z.scale.grad is not None:
        assert torch.isfinite(z.scale.grad)
    for f in fields(z):
        given = getattr(z, f.name)
        if given.requires_grad and word(f.name) in objective.needs:
            if word(f.name) in HELD_STILL.get(type(objective).__name__, set()):
                assert given.grad is None or not given.grad.any(), f.name
            else:
                assert given.grad is not None and torch.isfinite(given.grad).all() and given.grad.any(), f.name
        elif given.grad is not None:
            assert torch.isfinite(given.grad).all(), f.name


@every_objective
def test_stays_finite_in_float32_at_the_largest_scale(objective):
    z = embeddings()
    small = {f.name: v.detach().float() for f in fields(z) if (v := getattr(z, f.name)).is_floating_point()}
    small |= {"scale": torch.tensor(100.0), "teacher_scale": torch.tensor(100.0)}
    learned = [small[name].requires_grad_() for name in small if getattr(z, name).requires_grad]
    loss = total(objective(replace(z, **small)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(given.grad is None or torch.isfinite(given.grad).all() for given in learned)


@every_objective
def test_what_is_given_stays_as_it_is(objective):
    z = embeddings()
    given = [getattr(z, f.name) for f in fields(z)]
    before = [value.detach().clone() for value in given]
    objective(z)
    for value, kept in zip(given, before, strict=True):
        torch.testing.assert_close(value.detach(), kept, rtol=0, atol=0, equal_nan=True)


@every_objective
def test_the_order_of_the_batch_does_not_matter(objective):
    """Clips and texts are turned differently: which belong together is what the target says, not the position."""
    z = embeddings()
    turned = reordered(z, torch.tensor([3, 0, 4, 1, 2]), torch.tensor([1, 4, 2, 0, 3]))
    torch.testing.assert_close(total(objective(z)), total(objective(turned)))


@every_objective
def test_one_clip_is_a_batch(objective):
    z = embeddings(1)
    loss = total(objective(z))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(v.grad is None or torch.isfinite(v.grad).all() for f in fields(z) if (v := getattr(z, f.name)).is_leaf)


@every_objective
def test_clips_may_share_a_text(objective):
    assert torch.isfinite(total(objective(embeddings(5, 4))))


@every_objective
def test_agreement_costs_less_than_disagreement(objective):
    """Where it compares clips with texts and nothing else."""
    if set(objective.needs) != {"audio", "text"} or isinstance(objective, Sparsity):
        pytest.skip("compares other things than clips with texts")
    z = embeddings()
    right = Embeddings(z.text_UD, z.text_UD, z.scale, z.soft_target_BU, z.bias)
    wrong = Embeddings(z.text_UD.roll(1, 0), z.text_UD, z.scale, z.soft_target_BU, z.bias)
    assert total(objective(right)) < total(objective(wrong))


@every_objective
def test_is_frozen_and_comes_back_from_json(objective):
    with pytest.raises(FrozenInstanceError):
        objective.changed = 0.5
    assert from_json(json.loads(json.dumps(to_json(objective)))) == objective
