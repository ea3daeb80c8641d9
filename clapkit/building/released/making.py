"""A small model from the manifests, in one go: choose sounds, distil the text side, train, write the card.

    OUT/
        selection.json    how many clips of each set, what was left out and why
        ATTRIBUTION.txt   a line for each author or collection, as the licences ask
        world/            clips of the sound world
        text/             the table of token vectors, with its tokenizer
        run/              the training, its model in run/model, with its card

Whatever stands there already is not made again, and a training that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clapkit.building.released.card import write_card
from clapkit.building.released.distil import distil, teach, write
from clapkit.building.released.licences import Selection, Variant, select, sets_in
from clapkit.building.released.words import gather
from clapkit.building.soundworld import write_world
from clapkit.data.balance import BalancedStreams
from clapkit.data.clip import Clip
from clapkit.data.manifest import read
from clapkit.files import atomic_file
from clapkit.progress import ProgressBar
from clapkit.recipe import Recipe
from clapkit.spec import derive, spec
from clapkit.text.tokenizers import TextTokenizer
from clapkit.towers.pretrained import pretrained_text
from clapkit.towers.static import TABLE_FILE, static_text
from clapkit.training.loop import Run, train

WORLD = "soundworld"
_WORLD_LICENCE = "CC0 1.0 (synthesised by clapkit)"


@dataclass(frozen=True)
class Plan:
    """What a variant is made from.

    data      the folder with a folder for each set of sounds, and `captions` with texts
    out       where everything goes
    shares    what part of each batch each set is; sets without clips are left out
    width     numbers of an embedding
    world     clips of the sound world
    """

    data: Path
    out: Path
    variant: Variant
    shares: Mapping[str, float]
    width: int = 256
    world: int = 600


def make(
    plan: Plan,
    recipe: Recipe,
    *,
    keep: Callable[[Clip], bool] = lambda clip: True,
    device: str = "auto",
    progress: bool = False,
) -> Run:
    """Train `recipe` on what the variant may hear, its text tower a distilled table; everything lands in `plan.out`.

    keep   asked of every clip once it was selected, for experiments that leave classes out
    Raises DataError for folders without sets, texts or licences.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    selection = select({**sets_in(plan.data), WORLD: world_clips(plan)}, variant=plan.variant)
    clips = [clip for clip in selection.clips if keep(clip)]
    _write_selection(plan, selection, len(clips))
    text = text_folder(plan, progress=progress)
    ready = fitted(recipe, plan, text=text, sets={clip.meta["set"] for clip in clips})
    run = train(ready, clips, out=plan.out / "run", resume=True, device=device, progress=progress)
    assert run is not None, "only stop_at_step ends a run early"
    write_card(plan.out)
    return run


def fitted(recipe: Recipe, plan: Plan, *, text: Path, sets: set[str]) -> Recipe:
    """The recipe with the distilled text tower, the width of its vectors, and the shares of the sets that are there."""
    shares = tuple((name, share) for name, share in sorted(plan.shares.items()) if name in sets)
    missing = sorted(sets - plan.shares.keys())
    assert not missing, f"the plan gives {missing} no share"
    assert recipe.model is not None, "a released model is built by its recipe"
    model = derive(recipe.model, text=spec(static_text, folder=str(text)), dimension=plan.width)
    return recipe.but(model=model, sampler=BalancedStreams(column="set", shares=shares))


def text_folder(plan: Plan, *, progress: bool = False) -> Path:
    """The distilled text tower of `plan.out`, made if it is not there.

    Both variants have the same one, from texts whose licences allow released weights.
    """
    folder = plan.out / "text"
    if (folder / TABLE_FILE).is_file():
        return folder
    teacher = pretrained_text()
    assert teacher.folder is not None, "it was read from a folder"
    tokenizer = TextTokenizer(teacher.folder, max_tokens=teacher.max_tokens)
    clips = select(sets_in(plan.data), variant="released").clips
    texts = gather(plan.data / "captions", clips, tokenizer.vocabulary)
    with ProgressBar("texts", len(texts), shown=progress) as bar:
        vectors = teach(texts, teacher, tokenizer, folder=plan.out, progress=bar.update)
    distilled = distil(texts, vectors, tokenizer, width=plan.width)
    told = {"texts": len(texts), "kept": distilled.kept, "cosine": distilled.cosine}
    write(distilled, folder, tokenizer=tokenizer)
    _write_json(folder / "distilled.json", told)
    return folder


def world_clips(plan: Plan) -> tuple[Clip, ...]:
    """Clips of the sound world, synthesised into `plan.out` if they are not there."""
    if not plan.world:
        return ()
    folder = plan.out / "world"
    if not folder.exists():
        write_world(folder, train=plan.world, test=0, test_scenes=0, test_combinations=0, test_kinds=0)
    clips = read(folder / "manifest.jsonl").clips
    return tuple(clip.with_(meta={**clip.meta, "licence": _WORLD_LICENCE}) for clip in clips)


def _write_selection(plan: Plan, selection: Selection, kept: int) -> None:
    told = {"variant": plan.variant, "clips": kept, "sets": selection.count(), "left_out": selection.left_out}
    _write_json(plan.out / "selection.json", told)
    with atomic_file(plan.out / "ATTRIBUTION.txt") as file:
        file.write(("\n".join(selection.attributions) + "\n").encode())


def _write_json(path: Path, told: Mapping[str, object]) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(told, indent=2) + "\n").encode())
