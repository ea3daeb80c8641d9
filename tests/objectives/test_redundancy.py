"""VICReg and Barlow Twins, against loops over clips and directions, and their known values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import check_narrow_numbers
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.redundancy import BarlowTwins, Sparsity, VICReg

both = pytest.mark.parametrize("kind", [VICReg, BarlowTwins])
OBJECTIVES = [VICReg(), VICReg(against="text"), BarlowTwins(), BarlowTwins(against="text")]
WIDTH = 5


def unit(rows: int, width: int = WIDTH, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def batch(clips: int = 6, texts: int = 4, **changes) -> Embeddings:
    target = torch.rand(clips, texts, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    given = {"soft_target_BU": target / target.sum(1, keepdim=True), "audio_other_BD": unit(clips, seed=3)}
    given.update(changes)
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), torch.tensor(7.0, dtype=torch.float64), **given)


def views(audio_BD: torch.Tensor, other_BD: torch.Tensor) -> Embeddings:
    return Embeddings(audio_BD, unit(len(audio_BD)), torch.tensor(7.0), audio_other_BD=other_BD)


def as_lists(z: Embeddings, against: str) -> tuple[list[list[float]], list[list[float]]]:
    """Both views, times the root of the width; the text of a clip is the shared-out sum of its texts."""
    root = math.sqrt(z.audio_BD.shape[1])
    clips, width = z.audio_BD.shape
    audio = [[root * float(z.audio_BD[b, d]) for d in range(width)] for b in range(clips)]
    if against == "audio_other":
        return audio, [[root * float(z.audio_other_BD[b, d]) for d in range(width)] for b in range(clips)]
    texts = range(len(z.text_UD))
    shared = z.soft_target_BU
    return audio, [
        [root * sum(float(shared[b, u] * z.text_UD[u, d]) for u in texts) for d in range(width)] for b in range(clips)
    ]


def column_means(x: list[list[float]]) -> list[float]:
    return [sum(row[d] for row in x) / len(x) for d in range(len(x[0]))]


@pytest.mark.parametrize("against", ["audio_other", "text"])
def test_vicreg_equals_the_loops(against):
    z = batch()
    x, y = as_lists(z, against)
    clips, width = len(x), WIDTH
    invariance = sum((x[b][d] - y[b][d]) ** 2 for b in range(clips) for d in range(width)) / clips / width
    hinge = covariance = 0.0
    for view in (x, y):
        mean = column_means(view)
        for d in range(width):
            for e in range(width):
                c = sum((row[d] - mean[d]) * (row[e] - mean[e]) for row in view) / (clips - 1)
                if d == e:
                    hinge += max(0.0, 1.2 - math.sqrt(c + 1e-4)) / width
                else:
                    covariance += c**2 / width
    parts = VICReg(against=against, invariance=3.0, variance=2.0, covariance=0.5, deviation=1.2)(z)
    assert parts["invariance"].item() == pytest.approx(3.0 * invariance, rel=1e-12)
    assert parts["variance"].item() == pytest.approx(2.0 * hinge, rel=1e-12)
    assert parts["covariance"].item() == pytest.approx(0.5 * covariance, rel=1e-12)


@pytest.mark.parametrize("against", ["audio_other", "text"])
def test_barlow_twins_equals_the_loops(against):
    z = batch()
    standardised = []
    for view in as_lists(z, against):
        mean = column_means(view)
        variance = column_means([[(row[d] - mean[d]) ** 2 for d in range(WIDTH)] for row in view])
        standardised.append([[(r[d] - mean[d]) / math.sqrt(variance[d] + 1e-5) for d in range(WIDTH)] for r in view])
    x, y = standardised
    diagonal = off_diagonal = 0.0
    for d in range(WIDTH):
        for e in range(WIDTH):
            c = sum(x[b][d] * y[b][e] for b in range(len(x))) / len(x)
            diagonal, off_diagonal = (
                (diagonal + (1 - c) ** 2, off_diagonal) if d == e else (diagonal, off_diagonal + c**2)
            )
    parts = BarlowTwins(against=against, redundancy=0.1)(z)
    assert parts["invariance"].item() == pytest.approx(diagonal, rel=1e-12)
    assert parts["redundancy"].item() == pytest.approx(0.1 * off_diagonal, rel=1e-12)


@both
def test_equal_views_spread_over_all_directions_cost_nothing(kind):
    """Plus and minus each axis: every direction has deviation 1 (times the root of D) and no two vary together."""
    axes = torch.eye(WIDTH, dtype=torch.float64)
    spread = torch.cat([axes, -axes])
    assert sum(kind()(views(spread, spread)).values()).item() == pytest.approx(0.0, abs=1e-8)


def test_the_invariance_of_vicreg_is_two_less_twice_the_cosine():
    z = batch()
    cosine = functional.cosine_similarity(z.audio_BD, z.audio_other_BD).mean()
    torch.testing.assert_close(VICReg(invariance=1.0)(z)["invariance"], 2 - 2 * cosine)


@pytest.mark.parametrize("clips", [1, 4])
def test_collapse_costs_what_is_documented_and_one_clip_cannot_be_told_from_it(clips):
    z = views(unit(1).expand(clips, -1).clone().requires_grad_(), unit(1).expand(clips, -1))
    vicreg, barlow = VICReg()(z), BarlowTwins()(z)
    found = {name: part.item() for name, part in vicreg.items()}
    expected = {"invariance": 0.0, "variance": 2 * 25.0 * (1 - 0.01), "covariance": 0.0}
    assert found == pytest.approx(expected, abs=1e-12)
    assert barlow["invariance"].item() == pytest.approx(WIDTH) and barlow["redundancy"].item() == pytest.approx(0.0)


def test_one_clip_learns_from_the_invariance_of_vicreg_and_nothing_else():
    z = batch(1, audio_other_BD=unit(1, seed=9))
    z.audio_BD.requires_grad_()
    parts = VICReg()(z) | {f"barlow {name}": part for name, part in BarlowTwins()(z).items()}
    gradients = {name: torch.autograd.grad(part, z.audio_BD, retain_graph=True)[0] for name, part in parts.items()}
    taught = {name for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert taught == {"invariance"} and all(torch.isfinite(g).all() for g in gradients.values())


def test_barlow_twins_does_not_see_the_mean_or_the_size_of_a_direction():
    """Up to its 1e-5: a correlation knows neither."""
    z = views(unit(50, seed=1), unit(50, seed=2))
    moved = replace(z, audio_other_BD=z.audio_other_BD * torch.linspace(0.7, 2.0, WIDTH) + 0.4)
    for name, part in BarlowTwins()(z).items():
        torch.testing.assert_close(BarlowTwins()(moved)[name], part, rtol=1e-4, atol=1e-4)


@both
def test_a_caption_that_stands_twice_counts_twice(kind):
    shared = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    once = batch(3, 2, soft_target_BU=shared)
    twice = replace(once, text_UD=once.text_UD[[0, 0, 1]], soft_target_BU=None)
    here, there = kind(against="text")(once), kind(against="text")(twice)
    for name, part in here.items():
        torch.testing.assert_close(part, there[name])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_gradient_is_that_of_the_formula(objective):
    z = batch()
    inputs = [x.requires_grad_() for x in (z.audio_BD, z.text_UD, z.audio_other_BD)]

    def loss(audio, text, other):
        return sum(objective(replace(z, audio_BD=audio, text_UD=text, audio_other_BD=other)).values())

    assert torch.autograd.gradcheck(loss, inputs)


def test_needs_follow_the_setting():
    assert [objective.needs[1] for objective in OBJECTIVES] == ["audio_other", "text"] * 2


@both
def test_what_does_not_fit_is_told(kind):
    with pytest.raises(ClapkitError, match="no audio_other_BD"):
        kind()(batch(audio_other_BD=None))
    with pytest.raises(ClapkitError, match="audio_BD has width 5 and audio_other_BD 3"):
        kind()(batch(audio_other_BD=unit(6, 3)))
    with pytest.raises(ClapkitError, match="6 clips and 4 texts need a soft_target_BU"):
        kind(against="text")(batch(soft_target_BU=None))


@both
def test_an_unknown_second_view_is_refused_with_the_nearest(kind):
    with pytest.raises(SpecError, match="not against 'audio_othr'; did you mean 'audio_other'"):
        kind(against="audio_othr")


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (VICReg, "invariance", -1.0),
        (VICReg, "variance", float("inf")),
        (VICReg, "covariance", float("nan")),
        (VICReg, "deviation", 0.0),
        (BarlowTwins, "redundancy", -0.1),
    ],
)
def test_weights_that_make_no_sense_are_refused(kind, name, value):
    with pytest.raises(SpecError, match=f"{name} is .* not {value}"):
        kind(**{name: value})


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_narrow_numbers_are_computed_in_float32(objective):
    check_narrow_numbers(objective, batch())


def test_sparsity_equals_its_definition_with_a_text_for_each_clip():
    """A text of two clips counts twice, one of none not at all; over numbers one by one."""
    generator = torch.Generator().manual_seed(3)
    audio_BD, text_UD = (functional.normalize(torch.randn(n, 6, generator=generator).double(), dim=1) for n in (4, 5))
    place = [0, 2, 2, 4]
    target = torch.eye(5, dtype=torch.float64)[place]
    found = Sparsity()(Embeddings(audio_BD, text_UD, torch.tensor(1.0), target))
    for name, rows in (("audio_sparsity", audio_BD), ("text_sparsity", text_UD[place])):
        numbers = rows.flatten().tolist()
        expected = sum(abs(x) for x in numbers) / len(numbers) / sum(x * x for x in numbers) ** 0.5
        assert found[name].item() == pytest.approx(expected)


def test_sparsity_is_least_for_one_number_and_most_for_equal_ones():
    batch, width = 4, 9
    one, even = torch.eye(width, dtype=torch.float64)[:batch], torch.full((batch, width), width**-0.5).double()
    for vectors, expected in ((one, 1 / (width * batch**0.5)), (even, 1 / (width * batch) ** 0.5)):
        found = Sparsity()(Embeddings(vectors, vectors, torch.tensor(1.0)))
        assert all(value.item() == pytest.approx(expected) for value in found.values())
