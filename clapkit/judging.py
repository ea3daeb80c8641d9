"""Scores of a model while it trains, by the evaluations that judge a finished one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import DataError

if TYPE_CHECKING:
    from clapkit.data.cache import CachedAudio
    from clapkit.model import DualEncoder
    from clapkit.recipe import Recipe
    from clapkit.train_settings import Evaluate

EmbedText = Callable[[Sequence[str]], np.ndarray]
# Every clip as it is found is an item; the log has values without intervals, for which one resampling is the least.
_SAMPLES = 1
_AT_ONCE = 256  # clips with their samples in memory
# Clips longer than this are heard so far.
_LONGEST_S = 600.0


class ClipJudge:
    """A `training.watch.Judge` by clips with labels, captions or both; decoded once, heard in fp32 each time."""

    def __init__(self, clips: Sequence[Clip], *, shown: bool = False) -> None:
        """`shown` draws a bar while the clips are decoded."""
        self._clips, self._shown = tuple(clips), shown
        self._audio: CachedAudio | None = None

    def check(self, settings: Evaluate) -> None:
        """DataError where no task of `settings` can be done with these clips."""
        if not any(self._answers(task, self._clips) for task in settings.tasks):
            needs = " or ".join({"zero-shot": "a label", "retrieval": "a caption"}[task] for task in settings.tasks)
            raise DataError(
                f"none of the {len(self._clips)} clips to evaluate on has {needs}: there is nothing to score"
            )

    def prepare(self, rate_hz: int) -> None:
        """Decode the clips into the cache of training sound. A warning names those that fail, DataError if all do."""
        from clapkit.data.cache import cache_audio
        from clapkit.progress import ProgressBar

        with ProgressBar("decoding, to evaluate", len(self._clips), shown=self._shown) as bar:

            def decoded(done: int, total: int) -> None:
                bar.update(done, total)

            self._audio = cache_audio(self._clips, rate_hz=rate_hz, max_clip_s=_LONGEST_S, progress=decoded)
        if self._audio.failures:
            listed = "; ".join(f"{f.source}: {f.reason}" for f in self._audio.failures[:5])
            warnings.warn(
                f"{len(self._audio.failures)} of the {len(self._clips)} clips to evaluate on are left out: {listed}",
                stacklevel=2,
            )

    def __call__(self, model: DualEncoder, embed_text: EmbedText, settings: Evaluate) -> dict[str, float]:
        """The values that `clapkit eval` would find, by metric; both tasks need the sound once."""
        assert self._audio is not None, "prepare comes first"
        audio_ND = _heard(model, self._audio)
        found: dict[str, float] = {}
        for task in settings.tasks:
            rows = self._answers(task, self._audio.clips)
            if rows and task == "zero-shot":
                found |= self._zero_shot(audio_ND[rows], rows, embed_text, settings.templates)
            elif rows:
                found |= self._retrieval(audio_ND, embed_text)
        return found

    @staticmethod
    def _answers(task: str, clips: Sequence[Clip]) -> list[int]:
        """The clips that a task can be done with."""
        return [i for i, clip in enumerate(clips) if (clip.label if task == "zero-shot" else clip.captions)]

    def _zero_shot(
        self, audio_ND: np.ndarray, rows: Sequence[int], embed_text: EmbedText, templates: Sequence[str]
    ) -> dict[str, float]:
        from clapkit.evaluation.zero_shot import class_vectors, zero_shot

        assert self._audio is not None
        labels = [str(self._audio.clips[i].label) for i in rows]
        names = sorted(set(labels))
        text_CD = class_vectors(embed_text, names, templates)
        result = zero_shot(audio_ND, labels, names, text_CD, samples=_SAMPLES)
        return {name: score.value for name, score in result.metrics.items()}

    def _retrieval(self, audio_ND: np.ndarray, embed_text: EmbedText) -> dict[str, float]:
        from clapkit.evaluation.retrieval import retrieval

        assert self._audio is not None
        pairs = [(i, text) for i, clip in enumerate(self._audio.clips) for text in clip.captions]
        texts = [text for _, text in pairs]
        different = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(different)}
        text_MD = embed_text(different)[[place[text] for text in texts]]
        result = retrieval(audio_ND, text_MD, [i for i, _ in pairs], texts=texts, samples=_SAMPLES)
        return {name: score.value for name, score in result.metrics.items()}


def judge_by(clips: Sequence[Clip], recipe: Recipe, *, shown: bool = False) -> ClipJudge:
    """The judge by `clips` that `recipe.evaluate` asks; DataError where it asks for what no clip has."""
    assert recipe.evaluate is not None, "`evaluated` sees to it"
    judge = ClipJudge(clips, shown=shown)
    judge.check(recipe.evaluate)
    return judge


def evaluated(recipe: Recipe) -> Recipe:
    """The recipe, with the usual `evaluate` if it has none."""
    from clapkit.train_settings import Evaluate

    return recipe if recipe.evaluate is not None else recipe.but(evaluate=Evaluate())


def _heard(model: DualEncoder, audio: CachedAudio) -> np.ndarray:
    """Vectors [N, D] of the sound, by the towers as they stand: packed copies would be made anew each time."""
    from clapkit.runtime.engine import AudioEngine
    from clapkit.runtime.torch_program import TorchProgram

    engine = AudioEngine(TorchProgram(model, quick=False))
    vectors_ND = np.zeros((len(audio), model.dimension), np.float32)
    for first in range(0, len(audio), _AT_ONCE):
        here = range(first, min(first + _AT_ONCE, len(audio)))
        for result in engine.embed([(audio.samples(i), audio.rate_hz) for i in here], workers=0):
            if hasattr(result, "error"):
                raise result.error
            vectors_ND[first + result.index] = result.vector_D
    return vectors_ND
