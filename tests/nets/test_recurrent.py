"""Reading in order: against a loop over the frames of one row."""

from __future__ import annotations

import torch

from clapkit.nets.recurrent import Recurrent


def lively() -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(5, hidden=3).eval()


@torch.no_grad()
def test_equals_a_loop_over_the_real_frames_of_each_row():
    net, frames, lengths = lively(), torch.randn(4, 6, 5), [6, 3, 1, 0]
    found = net(frames, torch.arange(6) < torch.tensor(lengths)[:, None])
    assert found.shape == (4, net.width) == (4, 6)
    for row, length in enumerate(lengths):
        state, states = torch.zeros(3), [torch.zeros(3)] if not length else []
        for frame in frames[row, :length]:
            into, past = net.cell.weight_ih_l0 @ frame, net.cell.weight_hh_l0 @ state
            into, past = into + net.cell.bias_ih_l0, past + net.cell.bias_hh_l0
            reset, update = torch.sigmoid(into[:3] + past[:3]), torch.sigmoid(into[3:6] + past[3:6])
            state = (1 - update) * torch.tanh(into[6:] + reset * past[6:]) + update * state
            states.append(state)
        torch.testing.assert_close(found[row], torch.cat([state, torch.stack(states).amax(0)]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_order_matters_and_padding_does_not():
    net, frames = lively(), torch.randn(1, 4, 5)
    alone = net(frames, torch.ones(1, 4, dtype=torch.bool))
    assert (net(frames.flip(1), torch.ones(1, 4, dtype=torch.bool)) - alone).abs().max() > 1e-2
    padded = torch.cat([frames, torch.full((1, 3, 5), 9.0)], dim=1)
    torch.testing.assert_close(net(padded, torch.arange(7)[None] < 4), alone, rtol=0, atol=1e-6)


def test_autocast_leaves_it_in_float32_and_doubles_stay_doubles():
    net, frames, mask = lively(), torch.randn(2, 4, 5), torch.ones(2, 4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(frames.bfloat16(), mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, net(frames.bfloat16().float(), mask), rtol=0, atol=0)
    assert torch.autograd.gradcheck(net.double(), (frames.double().requires_grad_(), mask))
