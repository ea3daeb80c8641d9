"""Searches that one can listen to: texts from the best found to the worst, each with its first sounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clapkit.evaluation.pages.figures import Part
from clapkit.evaluation.pages.markup import named, shortened
from clapkit.evaluation.pages.numbers import spread
from clapkit.evaluation.pages.read import Arrays, TaskRead
from clapkit.evaluation.pages.sounds import Sounds

QUERIES, HITS = 6, 3
_ASKED, _AT_ONCE, _CHARACTERS = 400, 50, 160


@dataclass(frozen=True)
class Found:
    """One text: its row, the best clips in order, the place (from 1) of the best right one, and how many are right."""

    row: int
    best: tuple[int, ...]
    place: int
    right: int


def examples(task: TaskRead, sounds: Sounds) -> Part:
    """Some texts with the sounds that are nearest to them, chosen at equal steps of how well they do."""
    title, arrays = "Search by text, to listen to", task.arrays
    if arrays is None or not arrays.texts:
        return Part(title, None, task.absent or "the texts are not recorded")
    found = searches(arrays)
    if not found:
        return Part(title, None, "which sounds a text is right for is not recorded")
    chosen = [found[i] for i in spread(np.array([_quality(arrays, f) for f in found]), QUERIES)]
    items = "".join(f"<li>{_query(arrays, one, sounds)}</li>" for one in chosen)
    words = (
        f"{len(chosen)} of {len(arrays.texts)} texts, at equal steps from the best found to the worst, "
        f"each with the nearest of {len(arrays.audio_ND):,} sounds."
    )
    return Part(title, f'<ul class="queries">{items}</ul>', words)


def searches(arrays: Arrays) -> list[Found]:
    """What each of at most 400 texts (at equal steps) finds; texts that no sound belongs to are left out."""
    count = len(arrays.text_MD)
    rows = np.arange(count) if count <= _ASKED else np.linspace(0, count - 1, _ASKED).round().astype(int)
    found = []
    for start in range(0, len(rows), _AT_ONCE):
        block = rows[start : start + _AT_ONCE]
        for row, cosine_N in zip(block, arrays.text_MD[block] @ arrays.audio_ND.T, strict=True):
            right_N = arrays.right(int(row))
            if right_N.any():
                order = np.argsort(-cosine_N, kind="stable")
                place = int(np.flatnonzero(right_N[order])[0]) + 1
                found.append(Found(int(row), tuple(order[: max(HITS, place if place <= HITS else 0)].tolist()), place,
                                   int(right_N.sum())))  # fmt: skip
    return found


def _quality(arrays: Arrays, found: Found) -> float:
    """Lower is better: the place of the right sound; with several right ones, the share of wrong ones at the top."""
    return found.place - float(arrays.right(found.row)[list(found.best)].mean())


def _query(arrays: Arrays, found: Found, sounds: Sounds) -> str:
    text, right_N = arrays.texts[found.row], arrays.right(found.row)
    best, best_right = list(found.best), int(np.flatnonzero(right_N)[0])
    hits = "".join(
        _hit(arrays, found.row, clip, sounds, place=i, right=bool(right_N[clip])) for i, clip in enumerate(best, 1)
    )
    if found.place > len(best):
        order = np.argsort(-(arrays.audio_ND @ arrays.text_MD[found.row]), kind="stable")
        best_right = int(order[found.place - 1])
        hits += _hit(arrays, found.row, best_right, sounds, place=found.place, right=True)
    share = "its sound" if found.right == 1 else f"the first of its {found.right} sounds"
    return (
        f'<h4>{named(shortened(text, _CHARACTERS))}</h4><p class="words">{share} at place {found.place} of '
        f"{len(arrays.audio_ND):,}</p><ol>{hits}</ol>"
    )


def _hit(arrays: Arrays, row: int, clip: int, sounds: Sounds, *, place: int, right: bool) -> str:
    name = arrays.names[clip] if arrays.names else ""
    what = _what(arrays, clip) or _stem(name) or f"clip {clip}"
    mark = '<span class="right">✓ right</span>' if right else "<span>✗</span>"
    if not right and _same_words(arrays, row, clip):
        mark = "<span>✗ same words</span>"
    player = ""
    if name:
        player = sounds.player(name, about=f"place {place} for {shortened(arrays.texts[row], 60)}")
    return (
        f'<li><div class="hit"><span>{place}.</span><span class="what">{named(what)}</span>{mark}<span class="cosine">'
        f"{float(arrays.text_MD[row] @ arrays.audio_ND[clip]):.3f}</span></div>{player}</li>"
    )


def _same_words(arrays: Arrays, row: int, clip: int) -> bool:
    """Whether a caption of a clip is the very text of another clip: no mistake that one could hear."""
    own = [] if arrays.owners is None else np.flatnonzero(arrays.owners == clip).tolist()
    return any(arrays.texts[m] == arrays.texts[row] for m in own)


def _what(arrays: Arrays, clip: int) -> str:
    """What is said of a clip: its label, its tags or its first caption."""
    if arrays.labels:
        return arrays.labels[clip]
    if arrays.relevant_NC is not None:
        return ", ".join(arrays.texts[c] for c in np.flatnonzero(arrays.relevant_NC[clip]))
    if arrays.owners is None or not (arrays.owners == clip).any():
        return ""
    return shortened(arrays.texts[int((arrays.owners == clip).argmax())], _CHARACTERS // 2)


def _stem(name: str) -> str:
    """The name of a file without folders and ending."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] or last
