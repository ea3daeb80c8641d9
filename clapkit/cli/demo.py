"""clapkit demo: from nothing to a trained, evaluated and searchable model, and a page that shows it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli.terminal import progress_wanted, results, say, table
from clapkit.errors import DataError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.cli.scoring import Gallery
    from clapkit.data.clip import Clip
    from clapkit.evaluation.report import Result
    from clapkit.library import Index
    from clapkit.training.loop import Run

RECIPE = "soundworld"
# Chosen so that all of it ends within six minutes on two cores, three of them spent on training.
FULL = {"train": 1800, "test": 300, "test_scenes": 100, "test_combinations": 200, "test_kinds": 120}
QUICK = {"train": 40, "test": 20, "test_scenes": 6, "test_combinations": 12, "test_kinds": 4}
QUICK_STEPS = 8
GALLERY = {"test": 100, "test_scenes": 100}  # held-out clips of both sorts, among which retrieval looks
QUERIES = (
    "a dog barking",
    "rain falling",
    "a slow low-pitched church bell",
    "three quick knocks on a door",
)

_Out = Annotated[Path, typer.Option("--out", help="Folder for the world, the run, the index and the report.")]
_Quick = Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes: shows the way, learns nothing.")]


@dataclass
class Stopwatch:
    """Seconds of each step, said as they end."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        say(f"{name} ...")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        say(f"{name}: {self.seconds[name]:.0f} s")


@dataclass(frozen=True)
class Shown:
    """Everything that the report shows."""

    sizes: Mapping[str, int]
    run: Run
    clap: Clap
    clips: Mapping[str, Sequence[Clip]]
    gallery: Gallery
    scores: Mapping[str, Result]
    index: Index
    seconds: Mapping[str, float]


def add_to(app: typer.Typer) -> None:
    app.command("demo", epilog="Example:  clapkit demo --out demo   and then open demo/report.html")(demo)


def demo(out: _Out = Path("demo"), quick: _Quick = False) -> None:
    """Make a small world of sound, train on it, evaluate, search, and write a report.

    About five minutes on two cores; nothing is downloaded. Called again, it goes on where it stopped.
    """
    from clapkit.api import load, train
    from clapkit.cli.demo_report import write_report
    from clapkit.cli.scoring import Gallery
    from clapkit.library import Index

    sizes = QUICK if quick else FULL
    settings: dict[str, Any] = {"train__steps": QUICK_STEPS, "scale": "tiny"} if quick else {}
    watch = Stopwatch()
    with watch.step("sound world"):
        clips = _world(out, sizes)
    with watch.step("training"):
        run = train(RECIPE, clips["train"], out=out / "run", resume=True, progress=progress_wanted(), **settings)
    clap = load(run.path)
    with watch.step("evaluation"):
        everything = Gallery.of(clap, [clip for split in sizes if split != "train" for clip in clips[split]])
        gallery = everything.only({clip.id for split, count in GALLERY.items() for clip in clips[split][:count]})
        scores = _evaluate(clap, everything, gallery)
        _write_scores(out / "scores.json", scores)
    with watch.step("index"):
        searched = [clip for split in ("test", "test_scenes") for clip in clips[split]]
        shutil.rmtree(out / "index", ignore_errors=True)
        about = [{"captions": list(clip.captions)} for clip in searched]
        index, _ = Index.build(out / "index", clap, [str(clip.audio) for clip in searched], metadata=about)
    with watch.step("report"):
        shown = Shown(sizes, run, clap, clips, gallery, scores, index, watch.seconds)
        write_report(out / "report.html", shown)
    _show(scores)
    _show_searches(index, clips)
    say(f"{sum(watch.seconds.values()):.0f} s in all. Open {out / 'report.html'}")


def _world(out: Path, sizes: dict[str, int]) -> dict[str, list[Clip]]:
    """The clips of each split; the world is written unless an earlier call has left it."""
    from clapkit.building.soundworld import write_world
    from clapkit.data.manifest import read
    from clapkit.files import atomic_file
    from clapkit.progress import ProgressBar

    note, manifest = out / "demo.json", out / "world" / "manifest.jsonl"
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not note.is_file():
        raise DataError(f"--out {out} holds something that is no demo: name a new folder")
    if note.is_file() and json.loads(note.read_bytes()) != {"world": dict(sizes)}:
        raise DataError(f"--out {out} holds a demo of another size: remove it, or name a new folder")
    with atomic_file(note) as file:
        file.write(json.dumps({"world": dict(sizes)}).encode())
    if not manifest.is_file():
        with ProgressBar("clips", sum(sizes.values()), shown=progress_wanted()) as bar:
            write_world(out / "world", processes=_processes(sizes), progress=bar.update, **sizes)
    clips: dict[str, list[Clip]] = {split: [] for split in sizes}
    for clip in read(manifest):
        clips[str(clip.split)].append(clip)
    return clips


def _processes(sizes: Mapping[str, int]) -> int:
    # Starting a process takes as long as making a hundred clips.
    return min(8, os.cpu_count() or 1, 1 + sum(sizes.values()) // 500)


def _evaluate(clap: Clap, everything: Gallery, gallery: Gallery) -> dict[str, Result]:
    from clapkit.building.soundworld import World
    from clapkit.cli.scoring import Classes, Gallery, retrieval_result, zero_shot_result

    def named(split: str, label: Callable[[Clip], str | None]) -> Result:
        names = World().labels(split)
        there = everything.only({clip.id for clip in everything.clips if clip.split == split})
        clips = tuple(clip.with_(label=label(clip)) for clip in there.clips)
        return zero_shot_result(
            clap, Gallery(clips, there.audio_ND, there.skipped), classes=Classes(names, names), split=split
        )

    return {
        "new clips of trained kinds": named("test", lambda clip: clip.label),
        "held-out combinations": named("test_combinations", lambda clip: clip.meta["combination"]),
        "held-out kinds": named("test_kinds", lambda clip: clip.label),
        "retrieval": retrieval_result(clap, gallery, split=dict(GALLERY)),
    }


def _write_scores(path: Path, scores: Mapping[str, Result]) -> None:
    from clapkit.files import atomic_file

    with atomic_file(path) as file:
        file.write(json.dumps({name: result.to_json() for name, result in scores.items()}, indent=2).encode())


def headlines(scores: Mapping[str, Result]) -> list[tuple[str, str, int, float, float, float, float]]:
    """(evaluation, metric, n, value, low, high, chance) of what is worth showing first."""
    shown = [(name, "accuracy") for name in scores if name != "retrieval"]
    shown += [("retrieval", "r@1_text_to_audio"), ("retrieval", "r@10_text_to_audio")]
    found = []
    for name, metric in shown:
        score = scores[name].metrics[metric]
        found.append((name, metric, scores[name].n, score.value, score.low, score.high, score.chance or 0.0))
    return found


def _show(scores: Mapping[str, Result]) -> None:
    rows = [
        (name, metric, n, f"{value:.1%}", f"{low:.1%} to {high:.1%}", f"{chance:.1%}")
        for name, metric, n, value, low, high, chance in headlines(scores)
    ]
    columns = ("held-out sound", "metric", "n", "value", "95% interval", "chance")
    results().print(table("scores", columns, rows, numbers=columns[2:]))


def queries(clips: Mapping[str, Sequence[Clip]]) -> tuple[str, ...]:
    """What is searched for: our own words, and of two scenes of the index a caption each, one in order, one at once."""
    scenes = {str(clip.meta["order"]): clip.captions[-1] for clip in clips["test_scenes"]}
    return (*QUERIES, *scenes.values())


def _show_searches(index: Index, clips: Mapping[str, Sequence[Clip]]) -> None:
    rows = []
    for query in queries(clips):
        best = index.search(text=query, k=1)[0]
        rows.append((query, f"{best.score:.2f}", best.metadata["captions"][0]))
    results().print(table(f"best of {len(index)} sounds", ("search", "score", "what it is"), rows, numbers=("score",)))
