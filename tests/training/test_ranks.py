"""Two processes that train together end with the weights of one.

One pair of processes does everything that a pair has to do, and writes it down; the tests read it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from clapkit import native
from clapkit.cookbook import find_recipe
from clapkit.data.clip import Clip
from clapkit.errors import ClapkitError, RecipeError
from clapkit.objectives.combine import weighted
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.frames import FrameSigmoid, PriorBCE
from clapkit.objectives.margin import HardNegativeSoftplus
from clapkit.objectives.masked import MaskedReconstruction
from clapkit.objectives.order import TemporalNCE
from clapkit.objectives.siamese import Siamese
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.recipe import Recipe
from clapkit.spec import derive, spec
from clapkit.towers.vit import PatchTransformer
from clapkit.train_settings import Stage
from clapkit.training import loop
from clapkit.training.beside.masking import HiddenPatches
from clapkit.training.beside.priors import TextPriors
from clapkit.training.beside.queue import Queue
from clapkit.training.checkpoint import list_steps
from clapkit.training.companions import Predictors, Teacher
from clapkit.training.loop import train
from clapkit.training.parallel.sharding import check
from clapkit.views.sequence import Concatenate, OrderContrast
from clapkit.views.swaps import Negate

STEPS = 6
SAME = ("contrast", "sigmoid", "prediction", "shares", "hidden", "frames", "joined norms", "adapters", "queue")
# Two processes train with two thirds of a core where others are busy; one fixture does nearly everything.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def recipes(tiny_recipe, tiny_text_folder, tmp_path_factory):
    """By name; without dropout, for which two processes are not one."""
    text = tmp_path_factory.mktemp("texts") / "text"
    shutil.copytree(tiny_text_folder, text)
    config = json.loads((text / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (text / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tower = spec(PatchTransformer, width=16, depth=2, heads=2, expansion=2)
    plain = tiny_recipe.but(model=derive(tiny_recipe.model, audio=tower)).with_set("model.text.name", str(text))
    plain = plain.but(train=replace(plain.train, steps=STEPS, lr=1e-3, log_every=1))
    taught = plain.but(objective=Siamese(), beside=(Teacher(source="ema"), Predictors(hidden_width=16)))
    biased = plain.but(model=derive(plain.model, pair_bias=-2.0), objective=PairwiseSigmoid())
    shares = plain.but(model=derive(plain.model, frozen_text=False))
    hidden = HiddenPatches(share=0.6, width=12, depth=1, heads=2)
    order = Concatenate(p=0.5, longest_s=0.5, gap_s=(0.0, 0.05))  # brings events
    normed = plain.but(model=derive(plain.model, audio=tiny_recipe.model.arguments["audio"]))
    adapters = find_recipe("finetune").at("tiny").with_set("tune.lora_rank", 2)
    return {
        "contrast": plain.with_set("train.drop_tokens", 0.5),
        "sigmoid": biased.with_set("train.micro_batch", 2),
        "prediction": taught.but(train=replace(taught.train, ema=0.9)),
        "shares": shares.but(train=replace(shares.train, ema=0.9, parallel="fsdp", clip_norm=0.1)),
        "queue": _queued(biased),
        "hidden": plain.but(objective=weighted((InfoNCE(), 1.0), (MaskedReconstruction(), 1.0)), beside=(hidden,)),
        "frames": plain.but(
            objective=weighted((FrameSigmoid(), 1.0), (PriorBCE(), 1.0)),
            beside=(TextPriors(batches=2),),
            views=(plain.views[0], order, *plain.views[1:]),
        ),
        "joined norms": normed.with_set("train.batch_norm", "sync"),
        "adapters": adapters.but(train=replace(plain.train, lr=1e-2)),
        "odd": plain.with_set("batch.clips", 9),
        "norms": tiny_recipe,
        "wrong sounds": normed.but(
            objective=TemporalNCE(),
            views=(plain.views[0], OrderContrast(longest_s=0.5, gap_s=(0.0, 0.05)), *plain.views[1:]),
        ).with_set("train.batch_norm", "sync"),
        "stages": shares.but(train=replace(shares.train, parallel="fsdp"), stages=(Stage(frozen=("audio",)),)),
    }


def _queued(recipe: Recipe) -> Recipe:
    """With negatives of earlier steps, some of which are in no batch of four clips of six classes."""
    few = {"batch": replace(recipe.batch, clips=4), "texts": replace(recipe.texts, bank=0)}
    return recipe.but(beside=(Teacher(), Queue(size=12)), train=replace(recipe.train, ema=0.9), **few)


def given(folder: Path) -> tuple[dict[str, Recipe], list[Clip]]:
    """The recipes and clips that the parent wrote down."""
    told = json.loads((folder / "given.json").read_text(encoding="utf-8"))
    sounds = np.load(folder / "sounds.npy")
    clips = [
        Clip(n, sound, label=label, captions=tuple(c))
        for (n, label, c), sound in zip(told["clips"], sounds, strict=True)
    ]
    return {name: Recipe.from_json(recipe) for name, recipe in told["recipes"].items()}, clips


def join(rank: int, folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / name), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)


def given_to(name: str, folder: Path) -> dict[str, native.Loaded]:
    """The model that the run begins with, if it is given one: what "contrast" ended with."""
    return {"start": native.load(folder / "one" / "contrast")} if name == "adapters" else {}


def refused(recipe: Recipe, clips, out: Path) -> tuple[str, str]:
    try:
        train(recipe, clips, out=out, device="cpu")
    except ClapkitError as error:
        return type(error).__name__, str(error)
    raise AssertionError("it was not refused")


def unfit_on_one(rank: int, recipe: Recipe, clips, out: Path) -> tuple[str, str]:
    """What both say where one of them alone sees a loss that is no number, in its third step."""
    known = loop.take_step

    def poisoned(model, objective, batch, how) -> Mapping[str, torch.Tensor]:
        losses = known(model, objective, batch, how)
        return {"loss": torch.tensor(torch.nan)} if rank == 1 and batch.step == 2 else losses

    loop.take_step = poisoned
    try:
        return refused(recipe, clips, out)
    finally:
        loop.take_step = known


def pair(rank: int, place: str) -> None:
    folder = Path(place)
    join(rank, folder, "meeting")
    recipes, clips = given(folder)
    told = {}
    for name in SAME:
        run = train(
            recipes[name], clips, out=folder / "two" / name, device="cpu", workers=rank, **given_to(name, folder)
        )
        told[name] = run.space_id
    for name in ("contrast", "shares"):
        assert train(recipes[name], clips, out=folder / "fewer" / name, device="cpu", stop_at_step=3) is None
        train(recipes[name], clips, out=folder / "more" / name, device="cpu", resume=True)
    told["odd"] = refused(recipes["odd"], clips, folder / "odd")
    told["norms"] = refused(recipes["norms"], clips, folder / "norms")
    told["stages"] = refused(recipes["stages"], clips, folder / "stages")
    told["wrong sounds"] = refused(recipes["wrong sounds"], clips, folder / "wrong sounds")
    told["other data"] = refused(recipes["contrast"], clips[rank:], folder / "other")
    told["unfit"] = unfit_on_one(rank, recipes["contrast"], clips, folder / "unfit")
    (folder / f"rank{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ground(recipes, toy_clips, tmp_path_factory):
    """A folder with everything that processes are given."""
    folder = tmp_path_factory.mktemp("pair")
    about = [(c.id, c.label, c.captions) for c in toy_clips]
    told = {"clips": about, "recipes": {name: recipe.to_json() for name, recipe in recipes.items()}}
    (folder / "given.json").write_text(json.dumps(told), encoding="utf-8")
    np.save(folder / "sounds.npy", np.stack([c.audio for c in toy_clips]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAPKIT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def done(ground, recipes, toy_clips):
    """What both ranks wrote down, beside their runs in the folder."""
    for name in SAME:
        train(recipes[name], toy_clips, out=ground / "one" / name, device="cpu", **given_to(name, ground))
    for name in ("contrast", "shares"):
        train(recipes[name], toy_clips, out=ground / "more" / name, device="cpu", stop_at_step=3)
    mp.spawn(pair, (str(ground),), nprocs=2)
    return [json.loads((ground / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def learnt(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run, without the bias of keys: it changes no attention, and its gradient is rounding alone."""
    found = load_file(run / "model" / "model.safetensors")
    for name, tensor in found.items():
        if name.endswith("query_key_value.bias"):
            tensor[len(tensor) // 3 : 2 * len(tensor) // 3] = 0.0
        if name.endswith("key.bias"):
            tensor.zero_()
    return found


def assert_same(made: Path, expected: Path) -> None:
    theirs, ours = learnt(made), learnt(expected)
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        size = float(value.abs().max())
        if name.endswith("running_mean"):  # rounded as the values are that it is the mean of, which may well be near 0
            size = max(size, float(ours[name.replace("_mean", "_var")].max().sqrt()))
        off = float((theirs[name].double() - value.double()).abs().max())
        assert off <= 1e-5 * max(size, 1e-2), f"{name}: {off} beside numbers up to {size}"


@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_with_the_weights_of_one(done, ground, name):
    assert_same(ground / "two" / name, ground / "one" / name)
    assert done[0][name] == done[1][name], "both know the identity of the model"


@pytest.mark.parametrize("name", SAME)
def test_they_log_the_losses_of_one(done, ground, name):
    logs = [(ground / count / name / "log.jsonl").read_text(encoding="utf-8").splitlines() for count in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == STEPS, "one of the two writes"
    for ours, theirs in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5) and ours["step"] == theirs["step"]


def test_training_moved_the_weights_further_than_they_may_differ(done, ground):
    early, late = (
        load_file(folder / "state.safetensors")
        for folder in (
            ground / "fewer" / "contrast" / "checkpoints" / f"step_{3:08d}",
            ground / "two" / "contrast" / "checkpoints" / f"step_{STEPS:08d}",
        )
    )
    moved = max(float((late[name] - early[name]).abs().max()) for name in early if name.startswith("model."))
    assert moved > 1e-3


@pytest.mark.parametrize("name", ["contrast", "shares"])
def test_a_run_of_one_goes_on_with_two_and_that_of_two_with_one(done, ground, recipes, toy_clips, name):
    assert_same(ground / "more" / name, ground / "one" / name)
    train(recipes[name], toy_clips, out=ground / "fewer" / name, device="cpu", resume=True)
    assert_same(ground / "fewer" / name, ground / "one" / name)


def test_what_cannot_be_shared_out_is_told_by_both(done):
    for told in done:
        assert told["odd"][0] == "RecipeError" and "batch.clips=9" in told["odd"][1] and "2 processes" in told["odd"][1]
        assert told["norms"][0] == "RecipeError" and "batch_norm='frozen'" in told["norms"][1]
        assert told["stages"][0] == "RecipeError" and "use 'ddp'" in told["stages"][1]
        assert told["wrong sounds"][0] == "RecipeError" and "TemporalNCE, which needs" in told["wrong sounds"][1]
        assert told["other data"][0] == "ClapkitError" and "(data_digest: " in told["other data"][1]


def test_a_loss_that_is_no_number_in_one_process_stops_both_with_a_checkpoint(done, ground):
    for told in done:
        assert told["unfit"][0] == "ModelError" and "at step 2" in told["unfit"][1]
    assert [folder.name for folder in list_steps(ground / "unfit" / "checkpoints")] == ["step_00000002"]


def deserted(rank: int, place: str) -> None:
    """The second process ends without a word in its fourth step; the first writes down what it says then."""
    folder = Path(place)
    join(rank, folder, "meeting again")
    recipes, clips = given(folder)
    known = loop.take_step

    def leaving(model, objective, batch, how) -> Mapping[str, torch.Tensor]:
        if rank == 1 and batch.step == 3:
            os._exit(9)
        return known(model, objective, batch, how)

    loop.take_step = leaving
    told = refused(recipes["contrast"], clips, folder / "deserted")
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


def test_a_process_that_dies_ends_the_other_which_says_so_and_leaves_a_checkpoint(done, ground, recipes, toy_clips):
    processes = [mp.get_context("spawn").Process(target=deserted, args=(rank, str(ground))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 9]
    kind, told = json.loads((ground / "told.json").read_text(encoding="utf-8"))
    assert kind == "ClapkitError" and "after 3 steps" in told and "--resume" in told
    train(recipes["contrast"], toy_clips, out=ground / "deserted", device="cpu", resume=True)
    assert_same(ground / "deserted", ground / "one" / "contrast")


def test_fewer_workers_than_none_are_refused(tiny_recipe, toy_clips, tmp_path):
    with pytest.raises(ClapkitError, match="workers is a number of threads, 0 or more, not -1"):
        train(tiny_recipe, toy_clips, out=tmp_path / "run", workers=-1)


def test_a_way_of_sharing_out_that_does_not_exist_is_refused(tiny_recipe):
    with pytest.raises(ClapkitError, match="parallel cannot be 'fsdq'; did you mean 'fsdp'"):
        replace(tiny_recipe.train, parallel="fsdq")
    assert "parallel" not in tiny_recipe.to_json()["train"], "runs begun before there was a choice go on"


def test_shares_are_refused_where_processes_would_wait_for_each_other(tiny_recipe):
    assert check(tiny_recipe) is None
    wrong = tiny_recipe.but(objective=HardNegativeSoftplus(), views=(*tiny_recipe.views, Negate()))
    with pytest.raises(RecipeError, match="needs 'text_private': use 'ddp'"):
        check(wrong)
