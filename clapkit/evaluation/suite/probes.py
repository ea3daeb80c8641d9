"""What simple classifiers learn from the sounds of a task, fold by fold: for tasks with folds, where a run asks for it.

No text is involved. Beside each score stands its control, the same classifier trained on shuffled labels
(`shuffled_labels`).
"""

from __future__ import annotations

from typing import Any

from clapkit.errors import DataError
from clapkit.evaluation.classifiers.linear import Linear
from clapkit.evaluation.classifiers.neighbours import Neighbours
from clapkit.evaluation.probe import few_shot, probe
from clapkit.evaluation.report import Result
from clapkit.evaluation.suite.outcomes import FEW_SHOT, LINEAR, NEIGHBOURS
from clapkit.evaluation.suite.scoring import Heard

SHOTS = 5


def probes(heard: Heard, *, samples: int, seed: int) -> tuple[dict[str, Result], dict[str, str]]:
    """Results by name, and name -> why it could not be made of these clips.

    Logistic regression and the votes of ten neighbours hold out each fold in turn; SHOTS clips a class, drawn ten
    times from the other folds, are tried on the last. Raises MissingExtraError without scikit-learn.
    """
    folds = [str(clip.split) for clip in heard.clips]
    labels = [str(clip.label) for clip in heard.clips]
    how: dict[str, Any] = {"groups": heard.groups if heard.grouped else None, "samples": samples, "seed": seed}
    last = [fold == max(folds) for fold in folds]
    made = {
        LINEAR: lambda: probe(heard.audio_ND, labels, folds, classifier=Linear(), **how),
        NEIGHBOURS: lambda: probe(heard.audio_ND, labels, folds, classifier=Neighbours(), **how),
        FEW_SHOT: lambda: few_shot(heard.audio_ND, labels, last, shots=SHOTS, **how),
    }
    found: dict[str, Result] = {}
    left: dict[str, str] = {}
    for name, make in made.items():
        try:
            found[name] = make()
        except DataError as error:
            left[name] = str(error)
    return found, left
