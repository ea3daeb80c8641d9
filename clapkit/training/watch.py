"""What a run sees of itself as it goes: whether its vectors still tell things apart, and scores on clips set aside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import numpy as np
import torch

from clapkit.errors import RecipeError
from clapkit.model import DualEncoder
from clapkit.recipe import Recipe
from clapkit.train_settings import Evaluate
from clapkit.training.parallel.processes import Processes
from clapkit.training.step import EncodeTexts

# Vectors whose mean cosine is above this are nearly one vector: runs with true captions ended below 0.5 and were never
# above 0.88, with shuffled captions 0.93; one that collapses is at 0.996 within 30 steps. For so many records in
# a row it is no mere beginning: a network with random weights gives everything nearly the same vector at first.
ALIKE = 0.99
PATIENCE = 5
_MOST_ROWS = 256  # of a batch that the rank is computed from
_TEXTS = 64  # that a text tower reads at once, while a judge asks


class Watch:
    """Looks at the vectors of a batch when `wanted`, and says what it saw in `report`.

    audio_cosine, text_cosine  mean cosine of two different vectors of a side: 1 where all are one vector
    audio_rank                 effective rank: exp of the entropy of the singular values, which sum to 1 (Roy and
                               Vetterli 2007); between 1 and the smaller of clips and dimensions
    gap                        distance between the mean of the sound vectors and that of the text vectors (Liang et
                               al. 2022)
    """

    def __init__(self) -> None:
        self.wanted = False
        self._seen: dict[str, torch.Tensor] = {}
        self._alike = 0

    def __call__(self, made: Mapping[str, torch.Tensor]) -> None:
        """Remember the fields audio_BD and text_UD of a batch, if they are wanted."""
        if self.wanted:
            self._seen = {name: made[name].detach().float() for name in ("audio_BD", "text_UD") if name in made}

    @torch.no_grad()
    def report(self) -> dict[str, float | str]:
        """The numbers of the batch that was seen last, and under "warning" what is wrong with them for some time."""
        if len(self._seen) < 2:
            return {}
        audio_BD, text_UD = self._seen["audio_BD"], self._seen["text_UD"]
        self._seen = {}
        cosines = {"audio_cosine": mean_cosine(audio_BD), "text_cosine": mean_cosine(text_UD)}
        gap = float((audio_BD.mean(0) - text_UD.mean(0)).norm())
        found: dict[str, float | str] = {**cosines, "audio_rank": effective_rank(audio_BD[:_MOST_ROWS]), "gap": gap}
        self._alike = self._alike + 1 if max(cosines.values()) > ALIKE else 0
        if self._alike >= PATIENCE:
            found["warning"] = _warning(cosines)
            if self._alike == PATIENCE:
                warnings.warn(str(found["warning"]), stacklevel=2)
        return found


class Judge(Protocol):
    """Who scores a model while it trains: something from above that knows clips, runtimes and metrics."""

    def prepare(self, rate_hz: int) -> None:
        """Have the sound ready at this rate; called once before the first step, and the place for what is wrong."""

    def __call__(
        self, model: DualEncoder, embed_text: Callable[[Sequence[str]], np.ndarray], settings: Evaluate
    ) -> Mapping[str, float]:
        """Scores by name, for a model in eval mode and with its vectors [n, D] of texts; it changes nothing in it."""


class Judged:
    """When a run of `total` steps is scored, and what the log says of it. Without a judge it never is.

    showing      gives the model that the run would end with, for the time of a `with`
    encoder_of   gives what encodes texts for it
    processes    of them the first asks the judge, and the others wait
    """

    def __init__(
        self,
        judge: Judge | None,
        settings: Evaluate | None,
        showing: Callable[[], AbstractContextManager[DualEncoder]],
        encoder_of: Callable[[DualEncoder], EncodeTexts],
        *,
        total: int,
        processes: Processes,
    ) -> None:
        self.note = ""  # the first score of the last evaluation, for whoever watches
        self._judge, self._settings, self._total = judge, settings, total
        self._showing, self._encoder_of, self._processes = showing, encoder_of, processes

    def prepare(self, rate_hz: int) -> None:
        if self._judge is not None:
            self._processes.in_turn(partial(self._judge.prepare, rate_hz))

    def is_due(self, steps_done: int) -> bool:
        if self._judge is None or self._settings is None:
            return False
        return steps_done % self._settings.every_steps == 0 or steps_done == self._total

    def scores(self, steps_done: int) -> dict[str, float]:
        """For the log's record: the judge's names behind "eval "; empty where nothing is due, and in other processes.

        All processes ask at the same time.
        """
        if not self.is_due(steps_done):
            return {}
        found = self._ask() if self._processes.is_first else {}
        self._processes.of_first(None)  # as long as it takes: messages between accelerators would give up
        return found

    @torch.no_grad()
    def _ask(self) -> dict[str, float]:
        assert self._judge is not None and self._settings is not None, "asked when it is due"
        with self._showing() as model:
            encode = self._encoder_of(model)

            def embed_text(texts: Sequence[str]) -> np.ndarray:
                parts = [encode(texts[first : first + _TEXTS]) for first in range(0, len(texts), _TEXTS)]
                return torch.cat(parts).float().cpu().numpy()

            found = dict(self._judge(model, embed_text, self._settings))
        self.note = "".join(f"  {name} {value:.3f}" for name, value in list(found.items())[:1])
        return {f"eval {name}": value for name, value in found.items()}


def check_judge(judge: Judge | None, recipe: Recipe, *, sharded: bool) -> None:
    """RecipeError for a judge that is never asked, or cannot be; a warning for a recipe that has nobody to ask."""
    if judge is None:
        if recipe.evaluate is not None:
            warnings.warn(
                f"the recipe is evaluated every {recipe.evaluate.every_steps} steps, and there are no clips for it "
                "(--eval-data, eval_data=): it is not",
                stacklevel=2,
            )
    elif recipe.evaluate is None:
        raise RecipeError("a run is given a judge, and its recipe does not say when it is asked: evaluate=Evaluate()")
    elif sharded:
        raise RecipeError(
            "train.parallel='fsdp' cannot be evaluated as it trains, since no process has the whole model: use 'ddp', "
            "or evaluate the result (--val)"
        )


def mean_cosine(vectors_ND: torch.Tensor) -> float:
    """Mean cosine of two different rows of unit norm; 0 where there is one row alone."""
    count = len(vectors_ND)
    if count < 2:
        return 0.0
    return float((vectors_ND.sum(0).square().sum() - vectors_ND.square().sum()) / (count * (count - 1)))


def effective_rank(vectors_ND: torch.Tensor) -> float:
    """exp of the entropy of the singular values, brought to the sum 1."""
    values = torch.linalg.svdvals(vectors_ND)
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(shares).sum().exp())


def _warning(cosines: Mapping[str, float]) -> str:
    side, cosine = max(cosines.items(), key=lambda item: item[1])
    name = "sounds" if side == "audio_cosine" else "texts"
    return (
        f"the vectors of all {name} of a batch are nearly the same (mean cosine {cosine:.4f}) for {PATIENCE} records "
        "and more: the model has collapsed, or has not begun to learn. An objective without negatives needs something "
        "that keeps vectors apart (VICReg's variance, a teacher with predictors); otherwise lower train.lr, raise "
        "train.warmup_steps or batch.clips, and see whether the sounds are all silent or alike"
    )
