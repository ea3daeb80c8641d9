"""What `clapkit train finetune` tells: scores of the given model and of the tuned one on the same clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clapkit.cli.scoring import Gallery, groups_of, labels_of, retrieval_result, zero_shot_result
from clapkit.cli.terminal import say
from clapkit.data.clip import Clip
from clapkit.data.holdout import hold_out

if TYPE_CHECKING:
    import numpy as np

    from clapkit.api import Clap
    from clapkit.evaluation.change import Change, Heard

# Clips set aside at most where --val names none: enough for an interval of a few points.
_MOST_HELD_OUT = 1000
NEW, OLD = "new", "old"


def set_aside(clips: Sequence[Clip], *, share: float) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """(clips to train on, clips to measure on): about `share` of the clips of each label, whole recordings."""
    groups = groups_of(clips, column=None)
    share = min(share, _MOST_HELD_OUT / max(1, len(clips)))
    trained, aside = hold_out(clips, share=share, groups=groups and groups[1])
    if aside:
        say(f"{len(aside)} of {len(clips)} clips are set aside to measure on; --val names others, --hold-out 0 none")
    elif share:
        say("note: no clip can be set aside, since no label has two recordings: name clips to measure on with --val")
    return trained, aside


class Measured:
    """One model's answers: to the clips of each set, and to a fixed list of texts."""

    def __init__(self, clap: Clap, sets: Mapping[str, Sequence[Clip]], *, classes: Mapping[str, Sequence[str]]) -> None:
        from clapkit.evaluation.change import TEXTS

        self.space_id = clap.space_id
        self.texts_KD: np.ndarray = clap.embed_text(TEXTS)
        self.sets = {name: _heard(clap, clips, classes=classes.get(name)) for name, clips in sets.items() if clips}

    def change_to(self, after: Measured, **about: Any) -> Change:
        """This model and what became of it."""
        from clapkit.evaluation.change import Change, compare, mean_cosine

        compared = tuple(compare(name, heard, after.sets[name]) for name, heard in self.sets.items())
        about = {"start": self.space_id, "result": after.space_id, **about}
        return Change(compared, mean_cosine(self.texts_KD, after.texts_KD), about)


def _heard(clap: Clap, clips: Sequence[Clip], *, classes: Sequence[str] | None) -> Heard:
    from clapkit.cli.scoring import Classes
    from clapkit.evaluation.change import Heard, hits
    from clapkit.evaluation.zero_shot import class_vectors
    from clapkit.text.prompts import DEFAULT

    gallery = Gallery.of(clap, clips)
    groups = groups_of(gallery.clips, column=None)
    results, hits_N = {}, None
    if any(clip.label for clip in gallery.clips):
        labels = labels_of(gallery.clips, column="label")
        names = tuple(sorted({*(classes or ()), *(label for label in labels if label)}))
        results["zero-shot"] = zero_shot_result(clap, gallery, classes=Classes(names, names))
        if all(labels):
            hits_N = hits(gallery.audio_ND, labels, names, class_vectors(clap.embed_text, names, [DEFAULT]))
    if any(clip.captions for clip in gallery.clips):
        results["retrieval"] = retrieval_result(clap, gallery)
    ids = tuple(clip.id for clip in gallery.clips)
    return Heard(ids, gallery.audio_ND, results, hits_N, groups and groups[1])


def write_change(change: Change, run: Path) -> None:
    """Write RUN/finetune.json."""
    from clapkit.files import atomic_file

    with atomic_file(run / "finetune.json") as file:
        file.write((json.dumps(change.to_json(), indent=2, ensure_ascii=False) + "\n").encode())
