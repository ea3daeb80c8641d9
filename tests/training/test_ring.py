"""Texts that go round the processes: the losses and gradients of one process, and a part of its logits.

Two processes compute everything, and three; they write it down, and the tests read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stepping import Beside, batch, embeddings, gradients, small_model
from torch import nn

from clapkit.objectives.base import Embeddings
from clapkit.objectives.combine import Matryoshka, weighted
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.label import ClassTargets
from clapkit.objectives.margin import MaxMargin
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.training.gradient_cache import ROWS
from clapkit.training.parallel.gather import Ranks
from clapkit.training.parallel.ring import has_pairs_apart, ring_losses
from clapkit.training.step import How, take_step

COUNTS = (2, 3)
SERVED = (
    PairwiseSigmoid(),
    PairwiseSigmoid(labels="soft", chunk_rows=2),
    weighted((PairwiseSigmoid(), 0.5), (PairwiseSigmoid(labels="soft"), 2.0)),
    Matryoshka(PairwiseSigmoid(), (3, 8), (0.5, 1.0)),
)
OF_PAIRS = ("soft_target_BU", "include_BU")
BATCHES = {"uneven": (7, 5), "fewer texts than processes": (7, 2), "one text": (6, 1)}
STEPS = {"plain": {}, "micro-batches": {"micro_batch": 2}, "a clip at a time": {"micro_batch": 1}}
LARGE = 48  # clips and texts of the batch whose memory is counted


def several(clips: int, texts: int) -> Embeddings:
    """Every field; clips have two texts each, and texts several clips, on all ranks."""
    z = embeddings(clips, texts)
    target_BU = torch.zeros(clips, texts, dtype=torch.float64)
    for b in range(clips):
        target_BU[b, b % texts] += 0.75
        target_BU[b, (b * b + 1) % texts] += 0.25
    return replace(z, soft_target_BU=target_BU)


def leaves(z: Embeddings) -> dict[str, nn.Parameter]:
    return {f.name: nn.Parameter(v.detach()) for f in fields(z) if (v := getattr(z, f.name)).requires_grad}


def own(z: Embeddings, ranks: Ranks) -> Embeddings:
    """What this rank has of everything; of pairs its clips with all texts."""
    changes = {}
    for f in fields(z):
        value = getattr(z, f.name)
        if value is not None and ROWS[f.name] != "all":
            changes[f.name] = value[ranks.share(len(value))]
    return replace(z, **changes)


def of_objective(objective, size: tuple[int, int], ranks: Ranks | None = None):
    """Losses, and gradients of all that has one."""
    z = several(*size)
    learnt = leaves(z)
    z = replace(z, **learnt)
    losses = dict(objective(z)) if ranks is None else ring_losses(objective, own(z, ranks), ranks, clips=size[0])
    sum(losses.values()).backward()
    if ranks is not None:
        ranks.average_gradients(learnt.values())
        losses = ranks.averaged(losses)
    return {name: value.detach() for name, value in losses.items()}, {name: p.grad for name, p in learnt.items()}


def of_step(ranks: Ranks | None = None, **how):
    """A step of the objective with an extra that makes wrong sounds and negatives; and what the watch was shown."""
    model, shown = small_model(), {}
    model.beside = Beside()
    given = How(model.encode_texts, extras=(model.beside,), ranks=ranks, watch=shown.update, **how)
    given = replace(given, beside=tuple(model.beside.parameters()))
    losses = take_step(model, PairwiseSigmoid(), batch(7, 5), given)
    vectors = {name: shown[name].detach() for name in ("audio_BD", "text_UD")}
    return losses, gradients(model), vectors


@dataclass
class Kept:
    """A tensor that a graph holds; `tally` is told of it, and when it is let go."""

    tensor: torch.Tensor
    tally: Tally

    def __post_init__(self) -> None:
        self.tally.add(self.tensor.nbytes)

    def __del__(self) -> None:
        self.tally.add(-self.tensor.nbytes)


@dataclass
class Tally:
    """Bytes that graphs hold at once: now, and at most; and the largest tensor among them."""

    now: int = 0
    most: int = 0
    largest: int = 0

    def add(self, change: int) -> None:
        self.now += change
        self.most, self.largest = max(self.most, self.now), max(self.largest, change)


def held(losses, z: Embeddings) -> tuple[int, int]:
    """(bytes at most, bytes of the largest tensor) that graphs hold until all is differentiated."""
    tally = Tally()
    with torch.autograd.graph.saved_tensors_hooks(partial(Kept, tally=tally), lambda kept: kept.tensor):
        sum(losses(z).values()).backward()
    return tally.most, tally.largest


def pairs_alone() -> Embeddings:
    """A large batch without further negatives, whose logits would be counted too."""
    z = several(LARGE, LARGE)
    z = replace(z, text_negative_ED=None, audio_negative_FD=None)
    return replace(z, text_private_BKD=None, audio_private_UKD=None)


def memory(ranks: Ranks) -> tuple[int, int]:
    z = pairs_alone()
    return held(lambda z: ring_losses(PairwiseSigmoid(), z, ranks, clips=LARGE), own(z, ranks))


def work(rank: int, folder: str, count: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/meeting{count}", count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    ranks = Ranks.here()
    found = {
        "losses": {name: [of_objective(o, size, ranks) for o in SERVED] for name, size in BATCHES.items()},
        "steps": {name: of_step(ranks, **how) for name, how in STEPS.items()},
        "memory": memory(ranks),
    }
    torch.save(found, f"{folder}/{count}_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the ranks wrote down, by their number."""
    folder = tmp_path_factory.mktemp("ring")
    for number in COUNTS:
        mp.spawn(work, (str(folder), number), nprocs=number)
    return {n: [torch.load(folder / f"{n}_{rank}.pt", weights_only=False) for rank in range(n)] for n in COUNTS}


def assert_equal(made: dict, expected: dict) -> None:
    """Equal, and as to gradients: a gradient of 0 may be none."""
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        if value is None or not value.any():
            assert made[name] is None or not made[name].any(), name
        else:
            torch.testing.assert_close(made[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("ranks", COUNTS)
@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("number", range(len(SERVED)), ids=[repr(o)[:60] for o in SERVED])
def test_the_losses_and_gradients_are_those_of_one_process(found, ranks, size, number):
    losses, expected = of_objective(SERVED[number], BATCHES[size])
    assert any(gradient is not None and gradient.any() for gradient in expected.values())
    for rank in range(ranks):
        theirs, made = found[ranks][rank]["losses"][size][number]
        assert_equal(theirs, losses)
        assert_equal(made, expected)


@pytest.mark.parametrize("ranks", COUNTS)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_leaves_the_losses_and_gradients_of_one_process(found, ranks, name):
    losses, expected, vectors = of_step()
    for rank in range(ranks):
        theirs, made, shown = found[ranks][rank]["steps"][name]
        assert_equal(theirs, losses)
        assert_equal(made, expected)
        assert_equal(shown, vectors)


@pytest.mark.parametrize("ranks", COUNTS)
def test_no_process_holds_more_than_a_block_of_logits(found, ranks):
    block = (LARGE // ranks) ** 2 * 8
    z = pairs_alone()
    most, largest = held(PairwiseSigmoid(), z)
    assert largest == LARGE**2 * 8, "one process holds the logits of all pairs"
    for rank in range(ranks):
        theirs_most, theirs_largest = found[ranks][rank]["memory"]
        vectors = 2 * (LARGE // ranks) * 8 * 8
        assert theirs_largest == block
        assert theirs_most <= most / ranks**2 + vectors + 64


def test_what_has_no_pairs_apart_is_computed_from_the_joined_batch():
    assert all(map(has_pairs_apart, SERVED))
    for objective in (
        InfoNCE(),
        MaxMargin(),
        ClassTargets(PairwiseSigmoid()),
        weighted((PairwiseSigmoid(), 1.0), (InfoNCE(), 1.0)),
        Matryoshka(InfoNCE(), (8,)),
    ):
        assert not has_pairs_apart(objective)
