"""Two processes give the losses and gradients of one that has the clips of both.

Everything is computed by one pair of processes, which writes it down; the tests read it.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stepping import OBJECTIVES, Beside, axes, batch, embeddings, gradients, small_model, word
from torch import nn

from clapkit.data.batches import Batch
from clapkit.errors import ClapkitError, RecipeError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.margin import MaxMargin
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.training.gather import Ranks, gathered
from clapkit.training.step import How, part_of, take_step

# Clips and columns of each rank; the second text is drawn on both.
CLIPS = (slice(0, 4), slice(4, 7))
COLUMNS = ([0, 1, 2], [3, 1, 4])
NAMES = ("bell", "dog", "rain", "siren", "wind")
SHORTER = {"K": 2, "T": 5, "N": 6}  # of the second rank, where the first has 3, 6 and 7
LOCAL = (InfoNCE(), InfoNCE(balance=0.3), InfoNCE(private=False))


def whole() -> Embeddings:
    """The batch of both, with every field; what a rank cannot have or know is written down as such."""
    z = embeddings(7, 5)
    target, include = z.soft_target_BU.clone(), z.include_BU.clone()
    events, made = z.events_BUT.detach().clone(), {}
    target[:] = 0
    for b in range(7):
        mine = COLUMNS[b >= 4]
        target[b, mine[b % 3]] += 0.75
        target[b, mine[0]] += 0.25
        missing = [u for u in range(5) if u not in mine]
        include[b, missing] = True
        for t in range(6):
            known = any(not events[b, u, t].isnan() for u in mine)
            events[b, missing, t] = 0.0 if known else torch.nan
    for name in ("private_BK", "frame_mask_BT", "hidden_BN"):
        made[name] = getattr(z, name).clone()
        made[name][4:, SHORTER[axes(name)[1]] :] = False
    made["audio_private_UK"] = z.audio_private_UK.clone()
    made["audio_private_UK"][3:, 2:] = False
    events[4:, :, 5:] = torch.nan
    return replace(z, soft_target_BU=target, include_BU=include, events_BUT=events, **made)


def share_of(z: Embeddings, rank: int) -> Embeddings:
    """What one rank has of it; the second rank's rows are shorter."""
    made = {}
    for f in fields(z):
        value = getattr(z, f.name)
        for axis, letter in enumerate(axes(f.name)):
            if letter == "B":
                value = value[CLIPS[rank]]
            elif letter == "U":
                value = value.index_select(axis, torch.tensor(COLUMNS[rank]))
            elif rank and letter in SHORTER:
                value = value.narrow(axis, 0, SHORTER[letter])
        made[f.name] = value
    return Embeddings(**made)


def texts_of(rank: int) -> tuple[str, ...]:
    return tuple(NAMES[u] for u in COLUMNS[rank])


def leaves(z: Embeddings) -> dict[str, nn.Parameter]:
    return {f.name: nn.Parameter(v.detach()) for f in fields(z) if (v := getattr(z, f.name)).requires_grad}


def of_objective(objective, *, ranks: Ranks | None = None, rank: int = 0):
    """Losses, and gradients of all that has one; with `ranks` from this rank's share."""
    z = whole()
    made = leaves(z)
    z = replace(z, **made)
    if ranks is None:
        losses = objective(z)
        sum(losses.values()).backward()
        return {name: value.detach() for name, value in losses.items()}, {n: p.grad for n, p in made.items()}
    losses = ranks.losses(objective, share_of(z, rank), texts_of(rank))
    sum(losses.values()).backward()
    ranks.average_gradients(made.values())
    return ranks.averaged(losses), {n: p.grad for n, p in made.items()}


def both() -> Batch:
    """The joined batch of two ranks: each text describes clips of its own rank alone, but for the second."""
    given = batch(7, 5)
    target = given.soft_target_BU * 0
    for b in range(7):
        target[b, COLUMNS[b >= 4][b % 3]] = 1.0
    return replace(given, soft_target_BU=target)


def own(rank: int) -> Batch:
    given = part_of(both(), CLIPS[rank], slice(None))
    texts = tuple(given.texts[u] for u in COLUMNS[rank])
    return replace(given, texts=texts, soft_target_BU=given.soft_target_BU[:, COLUMNS[rank]])


STEPS = {
    "plain": {},
    "micro-batches": {"micro_batch": 2},
    "local loss": {"ranks": Ranks(local_loss=True)},
    "local loss of micro-batches": {"ranks": Ranks(local_loss=True), "micro_batch": 2},
}


def of_step(given: Batch, **how):
    model = small_model()
    model.beside = Beside()
    losses = take_step(model, InfoNCE(), given, How(model.encode_texts, extras=(model.beside,), **how))
    return losses, gradients(model)


def refusals(rank: int) -> dict[str, str]:
    """What is said on both ranks to what cannot be joined."""
    z, found = share_of(whole(), rank), {}
    lacking = replace(z, label_B=None) if rank else z
    wider = replace(z, tag_BC=torch.cat([z.tag_BC] * 2, dim=1)) if rank else z
    cases = {"lacking": (lacking, texts_of(rank)), "wider": (wider, texts_of(rank)), "equal": (z, ("a", "a", "b"))}
    for name, case in cases.items():
        with pytest.raises(ClapkitError) as caught:
            gathered(*case)
        found[name] = str(caught.value)
    with pytest.raises(RecipeError) as caught:
        Ranks(local_loss=True).losses(MaxMargin(), z, texts_of(rank))
    found["local"] = str(caught.value)
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    with pytest.raises(RecipeError) as caught:
        take_step(model, InfoNCE(), own(rank), How(model.encode_texts, ranks=Ranks()))
    found["norms"] = str(caught.value)
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meeting", 2), rank=rank, world_size=2)
    z = share_of(whole(), rank)
    bare = replace(z, private_BK=None, audio_private_UK=None, frame_mask_BT=None, hidden_BN=None)
    parameter = nn.Parameter(torch.zeros(2))
    unused = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([2.0, 4.0]) if rank else None
    Ranks().average_gradients([parameter, unused])
    found = {
        "joined": {f.name: getattr(gathered(z, texts_of(rank)), f.name).detach() for f in fields(z)},
        "bare": gathered(Embeddings(**{f.name: _detached(getattr(bare, f.name)) for f in fields(z)}), texts_of(rank)),
        "pairs": gathered(Embeddings(z.audio_BD.detach()[:3], z.text_UD.detach(), z.scale.detach()), texts_of(rank)),
        "objectives": [of_objective(objective, ranks=Ranks(), rank=rank) for objective in OBJECTIVES],
        "local": [of_objective(objective, ranks=Ranks(local_loss=True), rank=rank) for objective in LOCAL],
        "steps": {name: of_step(own(rank), **{"ranks": Ranks(), **how}) for name, how in STEPS.items()},
        "refusals": refusals(rank),
        "average": (parameter.grad, unused.grad),
    }
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def _detached(value):
    return None if value is None else value.detach()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(folder.as_posix(),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_the_joined_batch_is_that_of_one_process(found):
    z = whole()
    for rank in range(2):
        for f in fields(z):
            value, expected = found[rank]["joined"][f.name], getattr(z, f.name).detach()
            if rank_lacks := [letter for letter in axes(f.name) if letter in SHORTER]:
                mask = {"K": z.private_BK, "T": z.frame_mask_BT, "N": z.hidden_BN}[rank_lacks[0]]
                if f.name.startswith("audio_private"):
                    mask = z.audio_private_UK
                if f.name == "events_BUT":
                    mask = z.frame_mask_BT[:, None].expand(expected.shape)
                value, expected = value[mask], expected[mask]
            torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, msg=f.name)


def test_what_was_filled_up_is_masked_where_there_was_no_mask(found):
    for rank in range(2):
        z = found[rank]["bare"]
        assert z.private_BK.sum(1).tolist() == [3] * 4 + [2] * 3
        assert z.audio_private_UK.sum(1).tolist() == [3] * 3 + [2] * 2
        assert z.frame_mask_BT.sum(1).tolist() == [6] * 4 + [5] * 3
        assert z.hidden_BN.sum(1).tolist() == [7] * 4 + [6] * 3


def test_pairs_without_a_target_keep_to_their_own_texts(found):
    for rank in range(2):
        columns = [COLUMNS[r][i] for r in range(2) for i in range(3)]
        assert torch.equal(found[rank]["pairs"].soft_target_BU, torch.eye(5, dtype=torch.float64)[columns])


@pytest.mark.parametrize("number", range(len(OBJECTIVES)), ids=[repr(o) for o in OBJECTIVES])
def test_losses_and_gradients_are_those_of_one_process(found, number):
    losses, expected = of_objective(OBJECTIVES[number])
    for rank in range(2):
        theirs, made = found[rank]["objectives"][number]
        assert_equal(theirs, losses)
        # What no one reads has no gradient on one process, and zeros where it was exchanged.
        for name, value in expected.items():
            torch.testing.assert_close(
                made[name], torch.zeros_like(made[name]) if value is None and made[name] is not None else value,
                rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}",
            )  # fmt: skip
    assert any(v is not None and v.any() for n, v in expected.items() if word(n) in OBJECTIVES[number].needs)


@pytest.mark.parametrize("number", range(len(LOCAL)), ids=[repr(o) for o in LOCAL])
def test_each_rank_may_compute_its_own_rows_alone(found, number):
    losses, expected = of_objective(LOCAL[number])
    for rank in range(2):
        theirs, made = found[rank]["local"][number]
        assert_equal(theirs, losses)
        for name, value in expected.items():
            if value is not None:
                torch.testing.assert_close(made[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", STEPS)
def test_steps_leave_the_losses_and_gradients_of_one_process(found, name):
    losses, expected = of_step(both())
    for rank in range(2):
        theirs, made = found[rank]["steps"][name]
        assert_equal(theirs, losses)
        for key, value in expected.items():
            torch.testing.assert_close(made[key], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=key: f"{n}: {m}")


def test_gradients_of_one_rank_are_averaged_with_zeros_and_none_stays_none(found):
    for rank in range(2):
        assert found[rank]["average"][0].tolist() == [1.0, 2.0] and found[rank]["average"][1] is None


def test_what_cannot_be_joined_is_refused_on_both_ranks(found):
    for rank in range(2):
        said = found[rank]["refusals"]
        assert "label_B" in said["lacking"] and "ranks 0 and 1" in said["lacking"]
        assert "tag_BC" in said["wider"] and "(4, 4)" in said["wider"] and "(3, 8)" in said["wider"]
        assert "3 rows" in said["equal"] and "2 different" in said["equal"]
        assert "MaxMargin" in said["local"]
        assert "batch_norm='frozen'" in said["norms"]


def test_without_a_process_group_there_is_nothing_to_join():
    with pytest.raises(ClapkitError, match="torchrun"):
        gathered(whole(), NAMES)
