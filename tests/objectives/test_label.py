"""SupCon, class targets and Rank-N-Contrast against loops written out, and against what is known in closed form."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.label import ClassTargets, RankNContrast, SupCon


def unit(rows: int, width: int = 6, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def batch(clips: int = 6, texts: int | None = None, *, scale: float = 5.0, **more) -> Embeddings:
    texts = clips if texts is None else texts
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), torch.tensor(scale, dtype=torch.float64), **more)


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def values(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


# ---------------------------------------------------------------------------------------------------- SupCon


def supcon_by_loops(vectors, classes, clips, scale: float) -> float:
    losses = []
    for i, anchor in enumerate(vectors):
        others = [k for k in range(len(vectors)) if k != i]
        mates = [k for k in others if clips[k] == clips[i] or (classes[k] == classes[i] != -1)]
        below = sum(math.exp(scale * float(anchor @ vectors[k])) for k in others)
        if mates:
            terms = [math.log(math.exp(scale * float(anchor @ vectors[p])) / below) for p in mates]
            losses.append(-sum(terms) / len(mates))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("temperature", "scale"), [(None, 5.0), (0.5, 2.0)])
@pytest.mark.parametrize("other_views", [False, True])
def test_supcon_equals_the_loops(other_views, temperature, scale):
    known = labels(3, 0, 3, -1, 0, 3, -1)
    z = batch(7, label_B=known, audio_other_BD=unit(7, seed=3))
    vectors = [*z.audio_BD, *(z.audio_other_BD if other_views else ())]
    repeats = 2 if other_views else 1
    expected = supcon_by_loops(vectors, known.tolist() * repeats, list(range(7)) * repeats, scale)
    found = total(SupCon(other_views=other_views, temperature=temperature), z)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_two_views_and_no_class_mates_are_the_textbook_nt_xent():
    z = batch(5, label_B=labels(0, 1, 2, 3, 4), audio_other_BD=unit(5, seed=3))
    rows = torch.cat([z.audio_BD, z.audio_other_BD])
    logits = (5.0 * rows @ rows.T).fill_diagonal_(-torch.inf)
    partner = torch.arange(10).roll(5)
    torch.testing.assert_close(total(SupCon(other_views=True), z), functional.cross_entropy(logits, partner))


@pytest.mark.parametrize("known", [labels(0, 1, 2, 3), labels(-1, -1, -1, -1), labels(2)], ids=str)
def test_nobody_with_a_class_mate_costs_nothing_and_pulls_nowhere(known):
    z = batch(len(known), label_B=known)
    z.audio_BD.requires_grad_()
    loss = total(SupCon(), z)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(z.audio_BD.grad, torch.zeros_like(z.audio_BD))


def test_equal_vectors_cost_the_logarithm_of_the_others():
    z = dataclasses.replace(batch(6, label_B=labels(0, 0, 1, 1, 1, 2)), audio_BD=unit(1).expand(6, -1))
    assert total(SupCon(), z).item() == pytest.approx(math.log(5))


def test_the_names_of_classes_do_not_matter_and_lonely_clips_weigh_on_denominators_only():
    z = batch(5, label_B=labels(0, 0, 1, 1, -1))
    renamed = dataclasses.replace(z, label_B=labels(9, 9, 4, 4, -1))
    torch.testing.assert_close(total(SupCon(), z), total(SupCon(), renamed))
    without = dataclasses.replace(z, audio_BD=z.audio_BD[:4], text_UD=z.text_UD[:4], label_B=z.label_B[:4])
    assert total(SupCon(), without) < total(SupCon(), z)


@pytest.mark.parametrize("other_views", [False, True])
def test_supcon_has_the_gradient_of_its_formula(other_views):
    inputs = [x.requires_grad_() for x in (unit(4, seed=1), unit(4, seed=3), torch.tensor(3.0, dtype=torch.float64))]

    def loss(audio, other, scale):
        z = Embeddings(audio, audio, scale, label_B=labels(0, 1, 0, -1), audio_other_BD=other)
        return total(SupCon(other_views=other_views), z)

    assert torch.autograd.gradcheck(loss, inputs)


# ---------------------------------------------------------------------------------------------- class targets


def shared(target, common):
    """The new target, one share at a time."""
    clips, texts = len(target), len(target[0])
    rows = []
    for b in range(clips):
        whole = sum(common(b, c) for c in range(clips))
        rows.append([sum(common(b, c) * target[c][u] for c in range(clips)) / whole for u in range(texts)])
    return torch.tensor(rows, dtype=torch.float64)


def by_tags(tags):
    def common(b, c):
        if b == c:
            return 1.0
        one, two = ({i for i, is_on in enumerate(row) if is_on} for row in (tags[b], tags[c]))
        return len(one & two) / len(one | two) if one | two else 0.0

    return common


TARGET = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0.7, 0.3], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)


def test_class_targets_equal_the_loops():
    known = [4, 2, 4, -1, -1]
    z = batch(5, 3, soft_target_BU=TARGET, label_B=labels(*known))
    new = shared(TARGET.tolist(), lambda b, c: float(b == c or known[b] == known[c] != -1))
    torch.testing.assert_close(new.sum(1), torch.ones(5, dtype=torch.float64))
    expected = total(InfoNCE(balance=0.3), dataclasses.replace(z, soft_target_BU=new))
    torch.testing.assert_close(total(ClassTargets(InfoNCE(balance=0.3)), z), expected)


def test_tag_targets_equal_the_loops():
    tags = [[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    z = batch(5, 3, soft_target_BU=TARGET, tag_BC=torch.tensor(tags))
    new = shared(TARGET.tolist(), by_tags(tags))
    expected = total(InfoNCE(), dataclasses.replace(z, soft_target_BU=new))
    torch.testing.assert_close(total(ClassTargets(by="tag"), z), expected)


def test_distinct_classes_leave_the_objective_as_it_is():
    z = batch(4, label_B=labels(5, 3, 1, -1), tag_BC=torch.eye(4))
    for by in ("label", "tag"):
        torch.testing.assert_close(total(ClassTargets(by=by), z), total(InfoNCE(), z))


def test_one_tag_a_clip_says_what_the_label_says():
    known = labels(0, 2, 0, 1, 2)
    z = batch(5, label_B=known, tag_BC=functional.one_hot(known, 3))
    torch.testing.assert_close(total(ClassTargets(by="tag"), z), total(ClassTargets(), z))


def test_one_class_for_all_makes_every_text_fit_every_clip():
    z = batch(4, label_B=labels(1, 1, 1, 1))
    even = dataclasses.replace(z, soft_target_BU=torch.full((4, 4), 0.25, dtype=torch.float64))
    torch.testing.assert_close(total(ClassTargets(), z), total(InfoNCE(), even))


def test_class_targets_have_the_gradient_of_their_formula():
    inputs = [x.requires_grad_() for x in (unit(4, seed=1), unit(4, seed=2), torch.tensor(3.0, dtype=torch.float64))]

    def loss(audio, text, scale):
        return total(ClassTargets(), Embeddings(audio, text, scale, label_B=labels(0, 1, 0, -1)))

    assert torch.autograd.gradcheck(loss, inputs)


def test_class_targets_need_what_their_objective_needs():
    assert ClassTargets(by="tag").needs == ("audio", "text", "tag")
    assert ClassTargets(SupCon()).needs == ("audio", "label")


# ---------------------------------------------------------------------------------------------- Rank-N-Contrast


def apart(one, two, distance: str) -> float:
    steps = [abs(float(a - b)) for a, b in zip(one, two, strict=True)]
    return sum(steps) if distance == "l1" else math.sqrt(sum(s * s for s in steps))


def rank_by_loops(anchors, candidates, anchor_values, values_, scale, *, distance="l2", skip_own=False) -> float:
    """The definition, O(B^3)."""
    terms = []
    for i, anchor in enumerate(anchors):
        rest = [k for k in range(len(candidates)) if not (skip_own and k == i)]
        far = {k: apart(anchor_values[i], values_[k], distance) for k in rest}
        for j in rest:
            below = sum(math.exp(scale * float(anchor @ candidates[k])) for k in rest if far[k] >= far[j])
            terms.append(-math.log(math.exp(scale * float(anchor @ candidates[j])) / below))
    return sum(terms) / len(terms)


# On a grid of halves, so that many distances tie and none of the ties is lost to rounding.
GRID = values((1.0, 2.0), (1.5, 2.0), (1.0, 2.5), (1.0, 2.0), (4.0, 0.5), (0.5, 2.0))


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_rank_between_sound_and_text_equals_the_definition(distance):
    z = batch(6, value_BV=GRID)
    parts = RankNContrast(distance=distance)(z)
    there = rank_by_loops(z.audio_BD, z.text_UD, GRID, GRID, 5.0, distance=distance)
    back = rank_by_loops(z.text_UD, z.audio_BD, GRID, GRID, 5.0, distance=distance)
    assert parts["audio_to_text"].item() == pytest.approx(there / 2, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(back / 2, rel=1e-12)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_rank_within_sound_equals_the_definition(distance):
    z = batch(6, value_BV=GRID)
    expected = rank_by_loops(z.audio_BD, z.audio_BD, GRID, GRID, 5.0, distance=distance, skip_own=True)
    found = total(RankNContrast(between="audio", distance=distance), z)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_text_of_several_clips_has_their_mean_value():
    z = batch(5, 3, soft_target_BU=TARGET, value_BV=GRID[:5])
    weights = TARGET / TARGET.sum(0)
    text_values = [sum(weights[b, u] * GRID[b] for b in range(5)) for u in range(3)]
    parts = RankNContrast()(z)
    there = rank_by_loops(z.audio_BD, z.text_UD, GRID[:5], text_values, 5.0)
    back = rank_by_loops(z.text_UD, z.audio_BD, text_values, GRID[:5], 5.0)
    assert total(RankNContrast(), z).item() == pytest.approx((there + back) / 2, rel=1e-12)
    assert parts["audio_to_text"].item() == pytest.approx(there / 2, rel=1e-12)


def test_texts_that_describe_no_clip_have_no_value_and_are_left_out():
    z = batch(2, 4, soft_target_BU=torch.eye(4, dtype=torch.float64)[[0, 2]], value_BV=GRID[:2])
    lean = dataclasses.replace(z, text_UD=z.text_UD[[0, 2]], soft_target_BU=None)
    torch.testing.assert_close(total(RankNContrast(), z), total(RankNContrast(), lean))


def test_equal_values_are_infonce_with_every_text_a_positive():
    z = batch(5, value_BV=torch.full((5, 2), 3.0, dtype=torch.float64))
    even = dataclasses.replace(z, soft_target_BU=torch.full((5, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(total(RankNContrast(), z), total(InfoNCE(), even))


def test_two_clips_are_half_of_infonce():
    z = batch(2, value_BV=values((1.0,), (2.0,)))
    torch.testing.assert_close(total(RankNContrast(), z), total(InfoNCE(), z) / 2)


def test_equally_far_values_give_infonce_for_the_own_pair():
    """On the corners of a simplex the own text has all as rivals, and every other text all but the own one."""
    z = batch(4, value_BV=torch.eye(4, dtype=torch.float64))
    logits = 5.0 * z.audio_BD @ z.text_UD.T
    expected = 0.0
    for matrix in (logits, logits.T):
        others = torch.stack([torch.cat([row[:i], row[i + 1 :]]) for i, row in enumerate(matrix)])
        expected += (matrix.logsumexp(1) - matrix.diagonal()).sum() + (others.logsumexp(1)[:, None] - others).sum()
    torch.testing.assert_close(total(RankNContrast(), z), expected / 2 / 16)


def test_only_the_order_of_the_distances_counts():
    """From each of the four, the others stand in the same order of distance, though no distance is the same."""
    one, other = values((0.0,), (1.0,), (3.0,), (7.0,)), values((10.0,), (9.0,), (6.0,), (-3.0,))
    for between in ("audio", "audio_text"):
        objective = RankNContrast(between=between)
        torch.testing.assert_close(total(objective, batch(4, value_BV=one)), total(objective, batch(4, value_BV=other)))


def test_the_nearer_of_two_others_is_raised_above_the_farther():
    """Three equal texts of values 0, 1, 5; what their scores with the clip of value 0 feel can be counted by hand."""
    text_UD = unit(1, 3).repeat(3, 1).requires_grad_()
    z = Embeddings(torch.eye(3, dtype=torch.float64), text_UD, torch.tensor(1.0), value_BV=values((0,), (1,), (5,)))
    RankNContrast()(z)["audio_to_text"].backward()
    pull = -2 * 9 * text_UD.grad[:, 0]
    torch.testing.assert_close(pull, torch.tensor([1 - 1 / 3, 1 - 1 / 3 - 1 / 2, -1 / 3 - 1 / 2], dtype=torch.float64))


@pytest.mark.parametrize("between", ["audio", "audio_text"])
def test_rank_has_the_gradient_of_its_formula_and_one_clip_costs_nothing(between):
    inputs = [x.requires_grad_() for x in (unit(4, seed=1), unit(4, seed=2), torch.tensor(3.0, dtype=torch.float64))]

    def loss(audio, text, scale):
        return total(RankNContrast(between=between), Embeddings(audio, text, scale, value_BV=GRID[:4]))

    assert torch.autograd.gradcheck(loss, inputs)
    alone = batch(1, value_BV=GRID[:1])
    assert total(RankNContrast(between=between), alone).item() == pytest.approx(0.0, abs=1e-12)


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: SupCon(temperature=0.0), "temperature is a number above 0.* not 0.0"),
        (lambda: SupCon(temperature=-1.0), "not -1.0"),
        (lambda: ClassTargets(by="lable"), "by='lable': did you mean 'label'"),
        (lambda: RankNContrast(between="audio_txt"), "between='audio_txt': did you mean 'audio_text'"),
        (lambda: RankNContrast(distance="cosine"), "distance='cosine': known: l1, l2"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, told):
    with pytest.raises(SpecError, match=told):
        made()


@pytest.mark.parametrize(
    ("objective", "field"),
    [
        (SupCon(), "label_B"),
        (ClassTargets(), "label_B"),
        (ClassTargets(by="tag"), "tag_BC"),
        (RankNContrast(), "value_BV"),
    ],
    ids=repr,
)
def test_a_batch_without_what_is_read_is_refused_by_its_name(objective, field):
    with pytest.raises(ClapkitError, match=f"no {field}"):
        objective(batch(3))
    with pytest.raises(ClapkitError, match=rf"{field} has shape \(2,.* the first of 3"):
        objective(batch(3, **{field: torch.zeros(2, 1) if field[-2:] != "_B" else labels(0, 0)}))


def test_views_are_needed_where_they_are_asked_for():
    with pytest.raises(ClapkitError, match="no audio_other_BD"):
        SupCon(other_views=True)(batch(3, label_B=labels(0, 0, 1)))
