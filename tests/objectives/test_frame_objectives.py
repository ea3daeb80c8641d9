"""The frame losses against loops written out, and against what is known about them in closed form."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.frames import AttendedNCE, FrameSigmoid, PriorBCE

NAN = float("nan")


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def truth(clips: int, texts: int, frames: int, *, unknown: float = 0.2, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    heard = (torch.rand(clips, texts, frames, generator=generator) < 0.3).double()
    return heard.masked_fill(torch.rand(clips, texts, frames, generator=generator) < unknown, NAN)


def batch(clips: int = 3, texts: int = 5, frames: int = 4, *, scale: float = 6.0, **more) -> Embeddings:
    given = {
        "soft_target_BU": torch.eye(texts, dtype=torch.float64)[:clips],
        "frames_BTD": unit(clips, frames, 6, seed=3),
        "frame_mask_BT": torch.arange(frames) < torch.tensor([frames, frames - 1, frames - 2])[:clips, None],
        "events_BUT": truth(clips, texts, frames),
        "text_prior_U": torch.linspace(-3.0, 1.0, texts, dtype=torch.float64),
        "bias": torch.tensor(-2.5, dtype=torch.float64),
        **more,
    }
    sound, words = unit(clips, 6, seed=1), unit(texts, 6, seed=2)
    return Embeddings(sound, words, torch.tensor(scale, dtype=torch.float64), **given)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


def known_places(z: Embeddings) -> list[tuple[int, int, int]]:
    clips, texts, frames = z.events_BUT.shape
    return [
        (b, u, t)
        for b in range(clips)
        for u in range(texts)
        for t in range(frames)
        if not math.isnan(z.events_BUT[b, u, t]) and (z.frame_mask_BT is None or z.frame_mask_BT[b, t])
    ]


def frames_by_loops(z: Embeddings, offset_U) -> float:
    losses = []
    for b, u, t in known_places(z):
        sign = 1.0 if z.events_BUT[b, u, t] == 1 else -1.0
        logit = float(z.scale * z.frames_BTD[b, t] @ z.text_UD[u] + offset_U[u])
        losses.append(-math.log(1.0 / (1.0 + math.exp(-sign * logit))))
    return sum(losses) / len(losses)


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_frames_equal_the_loops_in_chunks_of_any_size(chunk, mask):
    z = batch() if mask else batch(frame_mask_BT=None)
    found = total(FrameSigmoid(chunk_texts=chunk), z)
    assert found.item() == pytest.approx(frames_by_loops(z, z.text_prior_U), rel=1e-12)
    found = total(FrameSigmoid(offset="bias", chunk_texts=chunk), z)
    assert found.item() == pytest.approx(frames_by_loops(z, [z.bias] * 5), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_every_text_may_have_a_steepness_of_its_own(chunk):
    steep_U = torch.tensor([0.5, 2.0, 8.0, 20.0, 3.0], dtype=torch.float64, requires_grad=True)
    z = batch(text_scale_U=steep_U)
    expected = 0.0
    for b, u, t in known_places(z):
        logit = steep_U[u] * (z.frames_BTD[b, t] @ z.text_UD[u]) + z.text_prior_U[u]
        expected -= functional.logsigmoid(logit if z.events_BUT[b, u, t] else -logit) / len(known_places(z))
    objective = FrameSigmoid(steepness="text_scale", chunk_texts=chunk)
    found = total(objective, z)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, steep_U)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    even = dataclasses.replace(z, text_scale_U=torch.full((5,), 6.0, dtype=torch.float64))
    torch.testing.assert_close(total(objective, even), total(FrameSigmoid(), even))
    assert objective.needs == ("text", "frames", "events", "text_prior", "text_scale")
    with pytest.raises(SpecError, match="steepness='text_scal': did you mean 'text_scale'"):
        FrameSigmoid(steepness="text_scal")
    with pytest.raises(ClapkitError, match=r"text_scale_U has shape \(4,\), expected \(5,\)"):
        objective(dataclasses.replace(z, text_scale_U=torch.ones(4)))


def test_the_gradient_does_not_depend_on_the_chunk():
    grads = []
    for chunk in (1, 2, 64):
        z = batch()
        given = (z.frames_BTD, z.text_UD, z.scale)
        for x in given:
            x.requires_grad_()
        total(FrameSigmoid(chunk_texts=chunk), z).backward()
        grads.append([x.grad for x in given])
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Remembers the most numbers in any tensor that an operation made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for out in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(out, torch.Tensor) and out._base is None:
                self.most = max(self.most, out.numel())
        return made


def test_no_tensor_of_clips_texts_and_frames_is_made_and_none_is_kept():
    clips, texts, frames, width, chunk = 3, 40, 16, 6, 4
    z = batch(clips, texts, frames, events_BUT=truth(clips, texts, frames))
    given = [x.requires_grad_() for x in (z.frames_BTD, z.text_UD, z.scale)]
    given_fields = [x for f in dataclasses.fields(z) if (x := getattr(z, f.name)) is not None]
    ours = {x.untyped_storage().data_ptr() for x in given_fields}
    kept = []

    def note(x):
        if x.untyped_storage().data_ptr() not in ours:
            kept.append(x.numel())
        return x

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = total(FrameSigmoid(chunk_texts=chunk), z)
        loss.backward()
    assert all(x.grad is not None for x in given)
    # The gradient of the frames is added up in tensors of the frames' own size.
    assert largest.most <= max(clips * frames * width, clips * chunk * frames, texts * width) < clips * texts * frames
    assert max(kept) <= texts


@pytest.mark.parametrize("offset", ["text_prior", "bias"])
def test_frames_have_the_gradient_of_their_formula(offset):
    z = batch(2, 3, 3)
    inputs = [x.requires_grad_() for x in (z.frames_BTD, z.text_UD, z.scale, z.bias)]

    def loss(frames, text, scale, bias):
        made = dataclasses.replace(z, frames_BTD=frames, text_UD=text, scale=scale, bias=bias)
        return total(FrameSigmoid(offset=offset, chunk_texts=2), made) + 0.0 * bias

    assert torch.autograd.gradcheck(loss, inputs)


def test_the_frame_loss_does_not_move_the_prior_and_the_prior_loss_moves_nothing_else():
    z = batch()
    given = [x.requires_grad_() for x in (z.frames_BTD, z.text_UD, z.scale, z.text_prior_U)]
    total(FrameSigmoid(), z).backward()
    assert z.text_prior_U.grad is None and all(x.grad is not None for x in given[:3])
    for x in given:
        x.grad = None
    total(PriorBCE(), z).backward()
    assert z.text_prior_U.grad.any() and all(x.grad is None for x in given[:3])


def test_one_frame_a_clip_is_the_pairwise_sigmoid():
    target = torch.eye(4, dtype=torch.float64)
    sound = unit(4, 6, seed=1)
    z = batch(
        4, 4, 1, soft_target_BU=target, frames_BTD=sound[:, None], frame_mask_BT=None, events_BUT=target[:, :, None]
    )
    signs = 2 * target - 1
    pairs = -functional.logsigmoid(signs * (6.0 * sound @ z.text_UD.T - 2.5)).sum() / 4
    torch.testing.assert_close(total(FrameSigmoid(offset="bias"), z), pairs / 4)


def test_what_says_nothing_costs_log_2_or_the_entropy_of_the_truth():
    events = truth(3, 2, 40, unknown=0.0)
    common = {"frame_mask_BT": None, "events_BUT": events, "soft_target_BU": torch.full((3, 2), 0.5)}
    silent = batch(3, 2, 40, scale=0.0, text_prior_U=torch.zeros(2, dtype=torch.float64), **common)
    assert total(FrameSigmoid(), silent).item() == pytest.approx(math.log(2))
    rho = events.mean(dim=(0, 2))
    true = batch(3, 2, 40, scale=0.0, text_prior_U=rho.logit(), **common)
    expected = sum(entropy(float(p)) for p in rho) / 2
    assert total(FrameSigmoid(), true).item() == pytest.approx(expected)
    assert total(PriorBCE(), true).item() == pytest.approx(expected)


def test_the_prior_loss_equals_the_loops():
    z = batch(events_BUT=truth(3, 5, 4).index_fill(1, torch.tensor(2), NAN))
    heard: dict[int, list[float]] = {}
    for b, u, t in known_places(z):
        heard.setdefault(u, []).append(float(z.events_BUT[b, u, t]))
    losses = []
    for u, seen in heard.items():
        rho, p = sum(seen) / len(seen), 1 / (1 + math.exp(-float(z.text_prior_U[u])))
        losses.append(-rho * math.log(p) - (1 - rho) * math.log(1 - p))
    assert len(losses) == 4, "nothing is known of text 2"
    assert total(PriorBCE(), z).item() == pytest.approx(sum(losses) / 4, rel=1e-12)


def test_the_prior_is_at_rest_at_the_log_odds_and_pulled_there_from_elsewhere():
    z = batch(events_BUT=truth(3, 5, 40, unknown=0.1), frames_BTD=unit(3, 40, 6), frame_mask_BT=None)
    rho = z.events_BUT.nanmean(dim=(0, 2))
    for step, sign in ((0.0, 0.0), (0.5, 1.0), (-0.5, -1.0)):
        prior = (rho.logit() + step).detach().requires_grad_()
        total(PriorBCE(), dataclasses.replace(z, text_prior_U=prior)).backward()
        if step:
            assert (prior.grad.sign() == sign).all()
        else:
            torch.testing.assert_close(prior.grad, torch.zeros_like(prior), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(lambda p: total(PriorBCE(), dataclasses.replace(z, text_prior_U=p)), [prior])


@pytest.mark.parametrize("objective", [FrameSigmoid(), FrameSigmoid(offset="bias"), PriorBCE()], ids=repr)
def test_nothing_known_costs_nothing_and_pulls_nowhere(objective):
    z = batch(events_BUT=torch.full((3, 5, 4), NAN, dtype=torch.float64))
    given = [x.requires_grad_() for x in (z.frames_BTD, z.text_UD, z.text_prior_U)]
    loss = total(objective, z)
    loss.backward()
    assert loss.item() == 0.0
    assert all(x.grad is None or not x.grad.any() for x in given)


def test_what_is_padding_or_unknown_has_no_say():
    z = batch()
    noise = unit(3, 4, 6, seed=9)
    changed = torch.where(z.frame_mask_BT[..., None], z.frames_BTD, noise)
    filled = torch.where(z.frame_mask_BT[:, None], z.events_BUT, 1.0)
    for objective in (FrameSigmoid(), PriorBCE()):
        other = dataclasses.replace(z, frames_BTD=changed, events_BUT=filled)
        torch.testing.assert_close(total(objective, z), total(objective, other))


def attended_by_loops(z: Embeddings, b: int, text, temperature: float) -> float:
    frames = [x for x, there in zip(z.frames_BTD[b], z.frame_mask_BT[b], strict=True) if there]
    cosines = [float(x @ text) for x in frames]
    weights = [math.exp(c / temperature) for c in cosines]
    return sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_attended_scores_equal_the_loops(chunk):
    target = torch.eye(5, dtype=torch.float64)[[0, 1, 1]]
    z = batch(
        soft_target_BU=target,
        text_negative_ED=unit(3, 6, seed=7),
        text_private_BKD=unit(3, 2, 6, seed=8),
        private_BK=torch.tensor([[True, False], [True, True], [False, False]]),
        include_BU=torch.arange(15).reshape(3, 5) % 4 != 2,
    )
    score = [[6.0 * attended_by_loops(z, b, t, 0.2) for t in z.text_UD] for b in range(3)]
    to_text = to_audio = 0.0
    for b, u in ((0, 0), (1, 1), (2, 1)):
        row = sum(math.exp(score[b][v]) for v in range(5) if z.include_BU[b, v] or target[b, v])
        row += sum(math.exp(6.0 * attended_by_loops(z, b, t, 0.2)) for t in z.text_negative_ED)
        own = zip(z.text_private_BKD[b], z.private_BK[b], strict=True)
        row += sum(math.exp(6.0 * attended_by_loops(z, b, t, 0.2)) for t, there in own if there)
        column = sum(math.exp(score[c][u]) for c in range(3) if z.include_BU[c, u] or target[c, u])
        to_text -= math.log(math.exp(score[b][u]) / row) / 3
        to_audio -= math.log(math.exp(score[b][u]) / column) / 3
    parts = AttendedNCE(temperature=0.2, balance=0.25, chunk_texts=chunk)(z)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


def square(frames: int, **more) -> Embeddings:
    return batch(4, 4, frames, **{"frame_mask_BT": None, "soft_target_BU": None, "events_BUT": None, **more})


def by_scores(score_BU: torch.Tensor) -> torch.Tensor:
    """InfoNCE of given cosines: the texts are axes, the clips rows of coordinates."""
    axes = torch.eye(score_BU.shape[1], dtype=score_BU.dtype)
    return total(InfoNCE(), Embeddings(score_BU, axes, torch.tensor(6.0, dtype=torch.float64)))


def test_one_frame_is_infonce_on_the_frames():
    z = square(1)
    plain = dataclasses.replace(z, audio_BD=z.frames_BTD[:, 0])
    torch.testing.assert_close(total(AttendedNCE(), z), total(InfoNCE(), plain))


def test_cold_attention_takes_the_best_frame_and_hot_attention_the_mean():
    z = square(5)
    cosine_BUT = torch.einsum("btd,ud->but", z.frames_BTD, z.text_UD)
    torch.testing.assert_close(total(AttendedNCE(temperature=1e-5), z), by_scores(cosine_BUT.amax(2)))
    torch.testing.assert_close(total(AttendedNCE(temperature=1e9), z), by_scores(cosine_BUT.mean(2)))


def test_the_order_of_the_frames_and_what_is_padding_do_not_matter():
    z = square(4)
    turned = dataclasses.replace(z, frames_BTD=z.frames_BTD.roll(1, 1))
    torch.testing.assert_close(total(AttendedNCE(), z), total(AttendedNCE(), turned))
    longer = torch.cat([z.frames_BTD, unit(4, 2, 6, seed=9)], dim=1)
    padded = dataclasses.replace(z, frames_BTD=longer, frame_mask_BT=(torch.arange(6) < 4).expand(4, -1))
    torch.testing.assert_close(total(AttendedNCE(), z), total(AttendedNCE(), padded))


def test_attended_has_the_gradient_of_its_formula():
    z = batch(2, 3, 3, text_private_BKD=unit(2, 2, 6, seed=8))
    names = ("frames_BTD", "text_UD", "scale", "text_private_BKD")
    inputs = [getattr(z, name).requires_grad_() for name in names]

    def loss(*given):
        return total(AttendedNCE(chunk_texts=2), dataclasses.replace(z, **dict(zip(names, given, strict=True))))

    assert torch.autograd.gradcheck(loss, inputs)


def test_a_clip_without_frames_has_nothing_to_attend_to():
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ClapkitError, match="clip 2 of the batch has no frame"):
        AttendedNCE()(square(3, frame_mask_BT=mask))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: FrameSigmoid(offset="prior"), "offset='prior': did you mean 'text_prior'"),
        (lambda: FrameSigmoid(chunk_texts=0), "chunk_texts is a number of texts, at least 1, not 0"),
        (lambda: AttendedNCE(chunk_texts=-1), "chunk_texts is a number of texts, at least 1, not -1"),
        (lambda: AttendedNCE(temperature=0.0), "temperature is a finite number above 0, not 0.0"),
        (lambda: AttendedNCE(temperature=float("inf")), "not inf"),
        (lambda: AttendedNCE(balance=2.0), "balance is a share .* not 2.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, told):
    with pytest.raises(SpecError, match=told):
        made()


@pytest.mark.parametrize(
    ("objective", "field"),
    [
        (FrameSigmoid(), "frames_BTD"),
        (FrameSigmoid(), "events_BUT"),
        (FrameSigmoid(), "text_prior_U"),
        (FrameSigmoid(offset="bias"), "bias"),
        (AttendedNCE(), "frames_BTD"),
        (PriorBCE(), "events_BUT"),
        (PriorBCE(), "text_prior_U"),
    ],
    ids=repr,
)
def test_a_batch_without_what_is_read_is_refused_by_its_name(objective, field):
    with pytest.raises(ClapkitError, match=f"no {field}"):
        objective(batch(**{field: None}))


@pytest.mark.parametrize("objective", [FrameSigmoid(), PriorBCE()], ids=repr)
@pytest.mark.parametrize(
    ("field", "wrong", "expected"),
    [
        ("events_BUT", torch.zeros(3, 4, 5), r"\(3, 4, 5\), expected \(3, 5, 4\)"),
        ("text_prior_U", torch.zeros(3), r"\(3,\), expected \(5,\)"),
        ("frame_mask_BT", torch.ones(3, 5, dtype=torch.bool), r"\(3, 5\), expected \(3, 4\)"),
    ],
)
def test_wrong_shapes_are_told_with_their_numbers(objective, field, wrong, expected):
    with pytest.raises(ClapkitError, match=f"{field} has shape {expected}"):
        objective(batch(**{field: wrong}))
