"""Batch norms over two processes are those of one with the joined batch.

One pair of processes computes everything and writes it down; the tests read it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stepping import Beside, batch, gradients, small_model
from torch import nn

from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.order import TemporalNCE
from clapkit.objectives.redundancy import VICReg
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.train_settings import TrainSettings
from clapkit.training.parallel.gather import Ranks
from clapkit.training.parallel.norms import check_joined, norms_joined
from clapkit.training.step import How, take_step

ROWS = 7  # of which one process has 3 and the other 4
NORMS = {
    "plain": (nn.BatchNorm1d(3), (ROWS, 3)),
    "images": (nn.BatchNorm2d(3), (ROWS, 3, 4, 5)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (ROWS, 3, 2, 2)),
    "no weights": (nn.BatchNorm1d(3, affine=False), (ROWS, 3, 6)),
    "no memory": (nn.BatchNorm1d(3, track_running_stats=False), (ROWS, 3)),
    "far from 0": (nn.BatchNorm1d(3), (ROWS, 3)),
}
STEPS = {"contrast": InfoNCE(), "ring": PairwiseSigmoid(), "two draws": VICReg()}


def values(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(name))
    x = torch.randn(NORMS[name][1], generator=generator, dtype=torch.float64)
    return x + 1e4 if name == "far from 0" else x


def of_norm(name: str, ranks: Ranks | None = None):
    """Output of two calls (of this rank's rows), gradients and running statistics."""
    norm = deepcopy(NORMS[name][0]).double()
    if norm.affine:
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    x = values(name)[ranks.share(ROWS) if ranks else slice(None)].requires_grad_()
    pull = torch.linspace(-1, 1, values(name).numel(), dtype=torch.float64).view(NORMS[name][1]).sin()
    if ranks is None:
        made = norm(norm(x).sin() + x)
    else:
        with norms_joined(norm):
            made = norm(norm(x).sin() + x)
    (made * pull[ranks.share(ROWS) if ranks else slice(None)]).sum().backward()
    learnt = {k: p.grad for k, p in norm.named_parameters()}
    for gradient in learnt.values():
        if ranks is not None:
            dist.all_reduce(gradient)
    return {"made": made.detach(), "x": x.grad, **learnt, **dict(norm.named_buffers())}


def of_step(objective, ranks: Ranks | None = None):
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    given = batch(7, 5)
    # The noise at clips of one loudness hides what norms do.
    loud = given.samples_BN * np.linspace(0.2, 3.0, 7, dtype=np.float32)[:, None]
    how = How(model.encode_texts, ranks=ranks, batch_norm="sync" if ranks else "live")
    if isinstance(objective, VICReg):
        model.beside = Beside()
        how = replace(how, extras=(model.beside,), beside=tuple(model.beside.parameters()))
    losses = take_step(model, objective, replace(given, samples_BN=loud), how)
    assert not any("forward" in vars(module) for module in model.modules()), "norms are themselves again"
    return losses, gradients(model), dict(model.named_buffers())


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meeting", 2), rank=rank, world_size=2)
    ranks = Ranks.here()
    found = {
        "norms": {name: of_norm(name, ranks) for name in NORMS},
        "steps": {name: of_step(objective, ranks) for name, objective in STEPS.items()},
        "half": half_precision(ranks),
    }
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def half_precision(ranks: Ranks) -> torch.Tensor:
    norm, x = nn.BatchNorm2d(3), values("images").bfloat16()
    with norms_joined(norm):
        return norm(x[ranks.share(ROWS)]).detach()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both ranks wrote down."""
    folder = tmp_path_factory.mktemp("norms")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def assert_equal(made: dict, expected: dict) -> None:
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", NORMS)
def test_outputs_gradients_and_running_statistics_are_those_of_one(found, name):
    theirs, expected = [found[rank]["norms"][name] for rank in range(2)], of_norm(name)
    for key in ("made", "x"):
        joined = torch.cat([rank[key] for rank in theirs])
        torch.testing.assert_close(joined, expected[key], rtol=1e-6, atol=1e-7 if name == "far from 0" else 1e-9)
    for rank in theirs:
        assert_equal(*({k: v for k, v in of.items() if k not in ("made", "x")} for of in (rank, expected)))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_with_a_residual_tower_is_that_of_one_process(found, name):
    losses, learnt, statistics = of_step(STEPS[name])
    assert any("running_mean" in key for key in statistics)
    for rank in range(2):
        theirs = found[rank]["steps"][name]
        assert_equal(theirs[0], losses)
        assert_equal(theirs[1], learnt)
        assert_equal(theirs[2], statistics)


def test_half_precision_stays_what_it_is_and_is_near_torch(found):
    made = torch.cat([found[rank]["half"] for rank in range(2)])
    assert made.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(3)(values("images").float())
    torch.testing.assert_close(made.float(), expected, rtol=0.02, atol=0.02)


def test_one_process_alone_has_the_whole_batch():
    losses, learnt, _ = of_step(InfoNCE())
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    loud = batch(7, 5).samples_BN * np.linspace(0.2, 3.0, 7, dtype=np.float32)[:, None]
    how = How(model.encode_texts, batch_norm="sync")
    assert_equal(take_step(model, InfoNCE(), replace(batch(7, 5), samples_BN=loud), how), losses)
    assert_equal(gradients(model), learnt)


def test_micro_batches_are_refused_by_name():
    with pytest.raises(SpecError, match="micro_batch=2"):
        How(lambda texts: texts, batch_norm="sync", micro_batch=2)
    with pytest.raises(SpecError, match=r"train.micro_batch=2"):
        TrainSettings(batch_norm="sync", micro_batch=2)
    with pytest.raises(SpecError, match=r"train.compile=true"):
        TrainSettings(batch_norm="sync", compile=True)
    with pytest.raises(SpecError, match="batch_norm cannot be 'synch'; did you mean 'sync'"):
        TrainSettings(batch_norm="synch")


def test_sounds_that_not_every_process_has_are_refused_by_name():
    with pytest.raises(RecipeError, match="TemporalNCE, which needs 'audio_private'"):
        check_joined(TemporalNCE())
    check_joined(InfoNCE())
