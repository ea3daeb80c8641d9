"""The contract of every audio tower that reads mel frames."""

from __future__ import annotations

import json
import math

import pytest
import torch

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.nets.output import TowerOutput
from clapkit.spec import Spec, derive, from_json, to_json
from clapkit.towers import beats, cnn14, dasheng, efficientat, htsat, m2d, mobilenet, phinet, resnet, resnet18, vit

TOWERS = {"resnet": resnet, "resnet18": resnet18, "mobilenet": mobilenet, "vit": vit, "m2d": m2d, "dasheng": dasheng}
TOWERS |= {"cnn14": cnn14, "phinet": phinet, "htsat": htsat, "beats": beats, "efficientat": efficientat}
DROPS_TOKENS = {"vit"}
WHOLE_STEPS_ONLY = {"beats", "cnn14", "dasheng"}  # as published, frames that fill no last patch or window are not heard
WHOLE_PAIRS_ONLY = {"phinet"}  # as published, its first convolution has no place for a last frame without a second one
BINS = 64
FRAME_RATE_HZ = 64.0

every_tower = pytest.mark.parametrize("name", TOWERS)


def mel(lengths: list[int], *, frames: int | None = None, seed: int = 0, padding: float = -80.0) -> Features:
    """Log-mel-like noise around -40 dB; `padding` stands behind the end of each clip."""
    values = torch.randn(len(lengths), frames or max(lengths), BINS, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(values.shape[1])[None] < torch.tensor(lengths)[:, None]
    return Features(torch.where(mask[..., None], 20 * values - 40, padding), mask)


def lively(part: Spec, seed: int = 1) -> torch.nn.Module:
    """A tower in eval mode whose weights and running statistics are all away from 0 and 1, as after a training."""
    torch.manual_seed(seed)
    tower = part.build().eval()
    with torch.no_grad():
        for key, value in tower.state_dict().items():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
                if key.endswith("input_norm.norm.running_mean"):
                    value.fill_(-40.0)
                if key.endswith("input_norm.norm.running_var"):
                    value.fill_(400.0)
    return tower


def steps_of(name: str, tower: torch.nn.Module, length: int) -> int:
    """How many frames the tower makes of `length` frames."""
    if name in WHOLE_PAIRS_ONLY:
        length = max(2, length - length % 2)
    steps = length / FRAME_RATE_HZ * tower.frame_rate_hz
    return max(1, math.floor(steps)) if name in WHOLE_STEPS_ONLY else math.ceil(steps)


def random_loss(output: TowerOutput) -> torch.Tensor:
    """Its gradient is not the symmetric one that a normalisation would cancel."""
    generator = torch.Generator().manual_seed(3)
    frames, summary = output.frames_BTD, output.summary_BD
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (frames, summary)]
    return (frames * weights[0]).sum() + (summary * weights[1]).sum()


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for rounding: towers without a norm at their end give numbers far from 1."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.detach().abs().max())))


@every_tower
def test_shapes_mask_and_rate(name):
    tower = lively(TOWERS[name].tiny)
    output = tower(mel([320, 200, 1]))
    batch, frames, width = output.frames_BTD.shape
    assert (batch, width) == (3, tower.width)
    assert output.summary_BD.shape == (3, tower.width)
    assert output.mask_BT.shape == (3, frames) and output.mask_BT.dtype == torch.bool
    assert frames == steps_of(name, tower, 320)
    assert output.mask_BT.sum(1).tolist() == [steps_of(name, tower, n) for n in (320, 200, 1)]
    assert not output.frames_BTD[~output.mask_BT].any(), "padded frames are zero"


@every_tower
def test_frame_rate_follows_the_front_end(name):
    slow, fast = TOWERS[name].tiny.build(), TOWERS[name].tiny.build(frame_rate_hz_in=100.0)
    assert fast.frame_rate_hz / slow.frame_rate_hz == pytest.approx(100.0 / FRAME_RATE_HZ)


@every_tower
def test_any_length_works(name):
    tower = lively(TOWERS[name].tiny)
    with torch.no_grad():
        for length in [*range(1, 40), 63, 64, 65, 100, 255, 257, 501, 700]:
            output = tower(mel([length]))
            assert output.mask_BT.all() and output.mask_BT.shape[1] == steps_of(name, tower, length)
            assert output.frames_BTD.isfinite().all() and output.summary_BD.isfinite().all()


@every_tower
@pytest.mark.parametrize("padding", [-80.0, 1e4, float("nan")])
def test_a_clip_alone_equals_the_clip_padded(name, padding):
    """No frame of sound may see the padding: not through a kernel, a pooling window, a patch or an attention."""
    tower = lively(TOWERS[name].tiny)
    with torch.no_grad():
        for length in (1, 2, 15, 16, 17, 33, 61, 90):
            joined_features = mel([length], frames=100, padding=padding)
            joined = tower(joined_features)
            alone = tower(Features(joined_features.values[:, :length], joined_features.mask_BT[:, :length]))
            real = int(joined.mask_BT.sum())
            assert real == alone.mask_BT.shape[1]
            assert_same(joined.frames_BTD[:, :real], alone.frames_BTD)
            assert_same(joined.summary_BD, alone.summary_BD)


@every_tower
def test_batch_mates_do_not_matter(name):
    tower = lively(TOWERS[name].tiny)
    lengths = [90, 31, 64, 7]
    together = mel(lengths)
    with torch.no_grad():
        joined = tower(together)
        for row, length in enumerate(lengths):
            alone = tower(Features(together.values[row : row + 1, :length], together.mask_BT[row : row + 1, :length]))
            assert_same(joined.summary_BD[row], alone.summary_BD[0])


@every_tower
def test_a_row_of_padding_alone_is_finite(name):
    tower = lively(TOWERS[name].tiny)
    output = tower(mel([40, 0]))
    random_loss(output).backward()
    assert output.summary_BD.isfinite().all() and not output.frames_BTD[1].any()
    assert all(p.grad.isfinite().all() for p in tower.parameters())


@every_tower
def test_the_same_seed_gives_the_same_tower_and_numbers(name):
    first, second = lively(TOWERS[name].tiny), lively(TOWERS[name].tiny)
    features = mel([50, 20])
    for _ in range(2):
        assert torch.equal(first(features).summary_BD, second(features).summary_BD)


@every_tower
@pytest.mark.parametrize("lengths", [[64, 64, 64], [64, 20, 3]])
def test_gradients_reach_every_parameter(name, lengths):
    torch.manual_seed(0)
    tower = TOWERS[name].tiny.build().train()
    random_loss(tower(mel(lengths))).backward()
    for key, parameter in tower.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@every_tower
def test_gradients_are_right(name):
    """Against finite differences, in float64, through a padded batch."""
    tower = lively(TOWERS[name].tiny).double()
    features = mel([20, 9])
    values = features.values.double().requires_grad_()
    weights = [p for p in tower.parameters() if p.ndim > 1][:3]

    def summary(values, *_weights):
        return tower(features.with_values(values)).summary_BD

    assert torch.autograd.gradcheck(summary, (values, *weights), fast_mode=True, eps=1e-5, atol=1e-5)


@every_tower
def test_a_step_of_training_lowers_the_loss(name):
    torch.manual_seed(0)
    tower = TOWERS[name].tiny.build().train()
    head = torch.nn.Linear(tower.width, 2)
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3)
    features, target = mel([48] * 16), torch.arange(16) % 2
    features.values[target == 1, ::8] += 40  # class 1 clicks
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(head(tower(features).summary_BD), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


@every_tower
def test_sizes_of_the_presets(name):
    with torch.device("meta"):
        tiny = sum(p.numel() for p in TOWERS[name].tiny.build().parameters())
        small = sum(p.numel() for p in TOWERS[name].small.build().parameters())
    assert tiny < 30_000
    assert 1e6 < small < 3e6


@every_tower
def test_state_dict_round_trip(name):
    trained, fresh = lively(TOWERS[name].tiny), TOWERS[name].tiny.build().eval()
    features = mel([40, 33])
    assert not torch.equal(trained(features).summary_BD, fresh(features).summary_BD)
    assert all(value.is_contiguous() for value in trained.state_dict().values()), "safetensors refuses other layouts"
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(features).summary_BD, fresh(features).summary_BD)


@every_tower
def test_bfloat16_autocast_trains_and_stays_close(name):
    tower = lively(TOWERS[name].tiny)
    features = mel([64, 40])
    with torch.autocast("cpu", torch.bfloat16):
        rough = tower(features)
    exact = tower(features).summary_BD
    assert rough.summary_BD.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough.summary_BD, exact).min() > 0.999
    random_loss(rough).backward()
    assert all(p.grad.isfinite().all() for p in tower.parameters())


@every_tower
def test_spec_survives_json(name):
    for part in (TOWERS[name].tiny, TOWERS[name].small, derive(TOWERS[name].tiny, frame_rate_hz_in=50.0)):
        again = from_json(json.loads(json.dumps(to_json(part))))
        assert again == part
    tower = from_json(to_json(TOWERS[name].tiny)).build()
    assert tower(mel([5])).summary_BD.shape == (1, tower.width)


@every_tower
def test_keep_works_or_is_refused(name):
    tower = lively(TOWERS[name].tiny)
    keep = torch.tensor([[0, 3, 1]])
    if name in DROPS_TOKENS:
        assert tower(mel([64]), keep=keep).frames_BTD.shape == (1, 3, tower.width)
    else:
        with pytest.raises(SpecError, match=r"cannot leave tokens out.*\[1, 3\]"):
            tower(mel([64]), keep=keep)


@every_tower
def test_features_that_do_not_fit_are_refused(name):
    tower = TOWERS[name].tiny.build()
    good = mel([10])
    with pytest.raises(SpecError, match=r"bins=40"):
        tower(Features(torch.zeros(1, 10, 40), good.mask_BT))
    with pytest.raises(SpecError, match=r"shape \[1, 0, 64\]"):
        tower(Features(torch.zeros(1, 0, BINS), torch.ones(1, 0, dtype=torch.bool)))
    with pytest.raises(SpecError, match=r"shape \[1, 640\]"):
        tower(Features(torch.zeros(1, 640), good.mask_BT))
    with pytest.raises(SpecError, match=r"\[1, 10\].*torch.float32"):
        tower(Features(good.values, good.mask_BT.float()))
    with pytest.raises(SpecError, match=r"\[1, 10\].*\[1, 9\]"):
        tower(Features(good.values, good.mask_BT[:, :9]))


@every_tower
def test_exports_without_depending_on_the_example(name):
    """A graph traced with a full batch still masks: the mask is data, not a decision of the tracing."""
    tower = lively(TOWERS[name].tiny)
    whole, padded = mel([48, 48]), mel([48, 20])

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, values, mask):
            return self.tower(Features(values, mask)).summary_BD

    graph = torch.export.export(Flat().eval(), (whole.values, whole.mask_BT)).module()
    found = graph(padded.values, padded.mask_BT)
    torch.testing.assert_close(found, tower(padded).summary_BD, rtol=0, atol=1e-5)
