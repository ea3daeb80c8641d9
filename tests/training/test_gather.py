"""Two processes that share a batch out among them have the losses and gradients of one.

Everything is computed by one pair of processes, which writes it down; the tests read it.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stepping import OBJECTIVES, Beside, batch, embeddings, gradients, small_model
from torch import nn

from clapkit.errors import ClapkitError, RecipeError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.margin import MaxMargin
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.training.gradient_cache import ROWS
from clapkit.training.parallel.gather import Ranks
from clapkit.training.step import How, take_step

LOCAL = (InfoNCE(), InfoNCE(balance=0.3), InfoNCE(private=False))  # rows that each rank computes for itself


def leaves(z: Embeddings) -> dict[str, nn.Parameter]:
    """Of every field that may learn."""
    return {f.name: nn.Parameter(v.detach()) for f in fields(z) if (v := getattr(z, f.name)).requires_grad}


def share_of(z: Embeddings, ranks: Ranks) -> dict[str, torch.Tensor]:
    """What this rank has: its clips, its texts, and what is not split."""
    made = {}
    for f in fields(z):
        value = getattr(z, f.name)
        made[f.name] = value if ROWS[f.name] == "all" else value[ranks.share(len(value))]
    return made


def of_objective(objective, ranks: Ranks | None = None):
    """Losses, and gradients of all that has one; with `ranks` from this rank's share."""
    z = embeddings(7, 5)
    learnt = leaves(z)
    z = replace(z, **learnt)
    if ranks is None:
        losses = dict(objective(z))
        sum(losses.values()).backward()
    else:
        losses = ranks.losses(objective, Embeddings(**ranks.joined(share_of(z, ranks))))
        sum(losses.values()).backward()
        ranks.average_gradients(learnt.values())
        losses = ranks.averaged(losses)
    return {name: value.detach() for name, value in losses.items()}, {name: p.grad for name, p in learnt.items()}


STEPS = {
    "plain": {},
    "micro-batches": {"micro_batch": 2},
    "more pieces than texts": {"micro_batch": 1},
    "dropped tokens": {"drop_tokens": 0.5, "seed": 4},
    "norms of micro-batches": {"batch_norm": "microbatch"},
}


def of_step(objective=None, **how):
    model = small_model()
    model.beside = Beside()
    given = How(model.encode_texts, extras=(model.beside,), **how)
    if given.drop_tokens:  # the extra encodes all tokens, whatever is dropped
        given = replace(given, extras=())
    losses = take_step(model, objective or InfoNCE(), batch(7, 5), given)
    return losses, gradients(model)


def refusals(ranks: Ranks) -> dict[str, str]:
    """What is said on both ranks to what cannot be joined."""
    made, found = share_of(embeddings(7, 5), ranks), {}
    lacking = {name: v for name, v in made.items() if name != "label_B"} if ranks.rank else made
    wider = {**made, "tag_BC": torch.cat([made["tag_BC"]] * 2, dim=1)} if ranks.rank else made
    for name, case in {"lacking": lacking, "wider": wider}.items():
        with pytest.raises(ClapkitError) as caught:
            ranks.joined(case)
        found[name] = str(caught.value)
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    with pytest.raises(RecipeError) as caught:
        take_step(model, InfoNCE(), batch(7, 5), How(model.encode_texts, ranks=ranks))
    found["norms"] = str(caught.value)
    return found


def averages(ranks: Ranks) -> dict[str, object]:
    parameter, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([2.0, 4.0]) if ranks.rank else None
    ranks.average_gradients([parameter, unused])
    norm, still = nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval()
    for module in (norm, still):
        module.running_mean.fill_(1.0 + ranks.rank)
    ranks.average_statistics(nn.ModuleList([norm, still]))
    return {"grad": parameter.grad, "unused": unused.grad, "norm": norm.running_mean, "still": still.running_mean}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meeting", 2), rank=rank, world_size=2)
    ranks = Ranks.here()
    made = share_of(embeddings(7, 5), ranks)
    few = {name: v for name, v in made.items() if not rank or ROWS[name] != "texts"}  # rank 1 has no text
    found = {
        "joined": {name: value.detach() for name, value in ranks.joined(made).items()},
        "few": {name: value.detach() for name, value in ranks.joined(few).items()},
        "objectives": [of_objective(objective, ranks) for objective in OBJECTIVES],
        "local": [of_objective(objective, ranks) for objective in LOCAL],
        "steps": {name: of_step(ranks=ranks, **how) for name, how in STEPS.items()},
        "margin": of_step(MaxMargin(), ranks=ranks),
        "refusals": refusals(ranks),
        "averages": averages(ranks),
    }
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both ranks wrote down."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def assert_equal(made: dict, expected: dict) -> None:
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        if value is not None:
            torch.testing.assert_close(made[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_clips_and_texts_of_both_stand_one_behind_the_other(found):
    z = embeddings(7, 5)
    whole = {f.name: getattr(z, f.name).detach() for f in fields(z)}
    for rank in range(2):
        assert found[rank]["joined"].keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[rank]["joined"][name], value, rtol=0, atol=0, equal_nan=True)


def test_a_rank_may_have_no_text(found):
    z = embeddings(7, 5)
    for rank in range(2):
        assert torch.equal(found[rank]["few"]["text_UD"], z.text_UD[:2].detach())
        assert torch.equal(found[rank]["few"]["audio_BD"], z.audio_BD.detach())


@pytest.mark.parametrize("number", range(len(OBJECTIVES)), ids=[repr(o)[:60] for o in OBJECTIVES])
def test_every_objective_has_the_losses_and_gradients_of_one_process(found, number):
    losses, expected = of_objective(OBJECTIVES[number])
    for rank in range(2):
        theirs, made = found[rank]["objectives"][number]
        assert_equal(theirs, losses)
        assert_equal(made, expected)


@pytest.mark.parametrize("number", range(len(LOCAL)), ids=[repr(o) for o in LOCAL])
def test_each_rank_may_compute_its_own_rows_alone(found, number):
    losses, expected = of_objective(LOCAL[number])
    for rank in range(2):
        assert_equal(found[rank]["local"][number][0], losses)
        assert_equal(found[rank]["local"][number][1], expected)


@pytest.mark.parametrize("name", STEPS)
def test_steps_leave_the_losses_and_gradients_of_one_process(found, name):
    losses, expected = of_step(**{k: v for k, v in STEPS[name].items() if k != "micro_batch"})
    for rank in range(2):
        assert_equal(found[rank]["steps"][name][0], losses)
        assert_equal(found[rank]["steps"][name][1], expected)


def test_a_step_whose_rows_depend_on_each_other_computes_them_all(found):
    losses, expected = of_step(MaxMargin())
    for rank in range(2):
        assert_equal(found[rank]["margin"][0], losses)
        assert_equal(found[rank]["margin"][1], expected)


def test_gradients_and_statistics_are_averaged_and_none_stays_none(found):
    for rank in range(2):
        made = found[rank]["averages"]
        assert made["grad"].tolist() == [1.0, 2.0] and made["unused"] is None
        assert made["norm"].tolist() == [1.5, 1.5], "of both"
        assert made["still"].tolist() == [1.0 + rank] * 2, "a norm at rest keeps its own"


def test_what_cannot_be_joined_is_refused_on_both_ranks(found):
    for rank in range(2):
        said = found[rank]["refusals"]
        assert "rank 0 has label_B and rank 1 has not" in said["lacking"]
        assert "tag_BC" in said["wider"] and "(3, 4)" in said["wider"] and "(4, 8)" in said["wider"]
        assert "batch_norm='frozen'" in said["norms"]


def test_without_a_process_group_there_is_nothing_to_join():
    with pytest.raises(ClapkitError, match="torchrun"):
        Ranks.here()


@pytest.mark.parametrize("total", [0, 1, 5, 8])
def test_shares_are_everything_in_order_and_nearly_equal(total):
    parts = [list(range(total))[Ranks(rank, 3).share(total)] for rank in range(3)]
    assert [*parts[0], *parts[1], *parts[2]] == list(range(total)) and max(map(len, parts)) - min(map(len, parts)) <= 1
