"""T-CLAP hears what came first: mixtures "A, then B" of held-out recordings of ESC-50, told apart from "B, then A".

Pre-registered
    arms       parent   recipe `tclap` without its order: no joined clips, plain InfoNCE; the same towers, heads, other
                        views, clips, batches and steps
               tclap    recipe `tclap` as it stands
               both with the SETS below; class names are all that is said of a clip
    seeds      0, 1, 2
    data       training on folds 1 to 4, read once on fold 5: no recording is in two folds. Settings were chosen on
               folds 1 and 2 for training and fold 3 for judging
    mixtures   each clip of fold 5 that is heard, with a partner of another class drawn by default_rng(2030): the
               strongest part of each, 4 s together at most, in both orders, put together as in training
    wordings   WORDINGS, none of which is used in training (the words before, after, then, first and followed are, in
               other sentences): three name the first sound first, three the second
    metric     order accuracy (`clapkit.evaluation.order`): the sound is nearer to its sentence than to the same
               sentence with the two names exchanged; mean over wordings, mixtures and seeds; for each seed the 95 %
               bootstrap over recordings (of the clip that chose its partner)
    thresholds tclap: at least 0.80
               parent: between 0.45 and 0.55
               controls of tclap, with the sounds (the sentences) of a pair of other classes: between 0.45 and 0.55
               retrieval between the single clips of fold 5 and the fifty sentences "this is the sound of NAME", recall
               at 10, mean of both directions: tclap at most 0.02 below parent
    reported   beside these: accuracy of each wording, both directions of order, zero-shot top-1 and mean average
               precision of the single clips, which fewer single clips in a batch will cost something
    pilot      folds 1 and 2 for training, judged on fold 3, seed 0, 350 steps, width 16, other wordings than these:
                   joined     order    controls      recall at 10   top-1
                   none       0.517    0.502 0.498   0.979          0.605   (parent)
                   p = 0.9    0.904    0.503 0.513   0.930          0.410
                   p = 0.4    0.757    0.502 0.503   0.965          0.488
               p = 0.5 lies between them; twice the steps and clips let both figures rise. It was not tried itself. The
               tower and the heads were as they are but for one more norm in front of the recurrence, and sounds were
               also turned round in time before they were joined

Run     python proofs/tclap_order.py --data DATA --out RUNS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import runner

import clapkit
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.data.manifest import read_all
from clapkit.evaluation.metrics import top_k_hits
from clapkit.evaluation.order import order_accuracy
from clapkit.evaluation.zero_shot import class_vectors, cosines, zero_shot
from clapkit.objectives.contrast import InfoNCE
from clapkit.recipe import Recipe
from clapkit.recipes.dual.tclap import recipe as tclap
from clapkit.text.prompts import DEFAULT, clean_label
from clapkit.views.connectives import connect
from clapkit.views.sequence import Concatenate

SETS = {"train.steps": 700, "train.lr": 3e-3, "train.warmup_steps": 40, "model.audio.width": 24}
WORDINGS = (
    "{A} is over before {B} starts",
    "{A} is followed by {B}",
    "at first there is {A} and then {B}",
    "{B} starts after {A} is over",
    "{B} only comes after {A}",
    "before there is {B}, one hears {A}",
)


@dataclass(frozen=True)
class Pair:
    """Two clips of different classes in both orders: the sounds, what they are called, and whose they are."""

    sounds: tuple[np.ndarray, np.ndarray]
    names: tuple[str, str]
    recording: str


def recipe_of(arm: str, seed: int) -> Recipe:
    recipe = tclap
    for path, value in {**SETS, "train.seed": seed}.items():
        recipe = recipe.with_set(path, value)
    if arm == "parent":
        plain = tuple(view for view in recipe.views if not isinstance(view, Concatenate))
        recipe = recipe.but(views=plain, objective=InfoNCE())
    return recipe


def decoded(clips: Sequence[Clip], rate_hz: int) -> list[Clip]:
    audio = cache_audio(clips, rate_hz=rate_hz)
    return [clip.with_(audio=audio.samples(i), rate_hz=rate_hz) for i, clip in enumerate(audio.clips)]


def pairs_of(clips: Sequence[Clip], *, longest_s: float) -> list[Pair]:
    view, rng = Concatenate(longest_s=longest_s, gap_s=(0.0, 0.3), p=1.0), np.random.default_rng(2030)
    by_id, made = {clip.id: clip for clip in clips}, []
    for clip in clips:
        params = view.draw(rng, clip, clips)
        if params:
            orders = [view.apply(clip, {**params, "clip_first": first}, by_id).audio for first in (True, False)]
            names = (str(clip.label), str(by_id[params["partner"]].label))
            made.append(Pair((orders[0], orders[1]), names, str(clip.meta["freesound_id"])))
    return made


def measured(clap: clapkit.Clap, clips: Sequence[Clip], pairs: Sequence[Pair]) -> dict[str, Any]:
    """All that is told of one model."""
    rate_hz = clips[0].rate_hz
    mixed = np.asarray(clap.embed_audio([(sound, rate_hz) for pair in pairs for sound in pair.sounds]))
    said = [connect(w, *names) for p in pairs for w in WORDINGS for names in (p.names, p.names[::-1])]
    text_PW2D = np.asarray(clap.embed_text(said)).reshape(len(pairs), len(WORDINGS), 2, -1)
    recordings = [pair.recording for pair in pairs]
    audio_P2D, names = mixed.reshape(len(pairs), 2, -1), [pair.names for pair in pairs]
    order = order_accuracy(audio_P2D, text_PW2D, names, wordings=WORDINGS, groups=recordings)
    single = np.asarray(clap.embed_audio([(clip.audio, rate_hz) for clip in clips]))
    labels = [str(clip.label) for clip in clips]
    classes = sorted(set(labels))
    sentences_CD = class_vectors(clap.embed_text, classes, [DEFAULT])
    top = zero_shot(single, labels, classes, sentences_CD)
    truth_N = np.array([classes.index(label) for label in labels])
    cosine_NC = cosines(single, sentences_CD, rows="clips", columns="sentences")
    found_C = [(truth_N[np.argsort(-cosine_NC[:, c], kind="stable")[:10]] == c).any() for c in range(len(classes))]
    return {
        "order": {name: score.value for name, score in order.metrics.items()},
        "order_interval": [order.metrics["accuracy"].low, order.metrics["accuracy"].high],
        "wordings": {name: row["accuracy"] for name, row in order.per_class.items()},
        "retrieval": {
            "r@10_audio_to_text": float(top_k_hits(cosine_NC, truth_N, k=10).mean()),
            "r@10_text_to_audio": float(np.mean(found_C)),
        },
        "map": top.metrics["map"].value,
        "top1": top.metrics["accuracy"].value,
        "pairs": len(pairs),
        "clips": len(clips),
    }


def summary(rows: Sequence[runner.Row]) -> Mapping[str, Any]:
    """Means over the seeds of each arm, and whether the thresholds are met."""
    told: dict[str, Any] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        values = {name: [row["order"][name] for row in mine] for name in mine[0]["order"]}
        values["retrieval"] = [float(np.mean(list(row["retrieval"].values()))) for row in mine]
        values |= {name: [row[name] for row in mine] for name in ("top1", "map")}
        told[arm] = {name: {"mean": float(np.mean(v)), "each": v} for name, v in values.items()}
    if {"parent", "tclap"} <= told.keys():
        mean = {arm: {name: value["mean"] for name, value in told[arm].items()} for arm in told}
        told["met"] = {
            "order": mean["tclap"]["accuracy"] >= 0.80,
            "parent at chance": abs(mean["parent"]["accuracy"] - 0.5) <= 0.05,
            "controls at chance": all(abs(mean["tclap"][n] - 0.5) <= 0.05 for n in ("text_only", "audio_only")),
            "retrieval": mean["tclap"]["retrieval"] >= mean["parent"]["retrieval"] - 0.02,
        }
    return told


def main() -> None:
    given = runner.arguments(__doc__.splitlines()[0])
    read = read_all([given.data / "esc50" / "manifest.csv"]).clips
    clips = [clip.with_(captions=(), label=clean_label(str(clip.label))) for clip in read]
    learnt = [clip for clip in clips if clip.meta["fold"] != "5"]
    test = decoded([clip for clip in clips if clip.meta["fold"] == "5"], 32000)
    pairs = pairs_of(test, longest_s=tclap.batch.clip_s)

    def make_row(arm: str, seed: int, folder: Path) -> dict[str, Any]:
        if not (folder / "model").exists():
            clapkit.train(recipe_of(arm, seed), learnt, out=folder, resume=True, progress=True)
        return measured(clapkit.load(folder), test, pairs)

    settings = {"sets": SETS, "wordings": WORDINGS, "recipe": tclap.to_json()}
    proof = runner.Proof("tclap_order", ("parent", "tclap"), tuple(range(given.seeds)), settings)
    runner.run(proof, make_row, out=given.out, results=given.results, summary=summary)


if __name__ == "__main__":
    main()
