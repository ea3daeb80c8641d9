"""The sound of a run: decoded, and as mel spectra where the recipe wants them kept."""

from __future__ import annotations

from collections.abc import Sequence

from clapkit.audio.frontends import Frontend
from clapkit.data.cache import CachedAudio, cache_audio
from clapkit.data.clip import Clip
from clapkit.model import DualEncoder
from clapkit.progress import ProgressBar
from clapkit.recipe import Recipe
from clapkit.training.parallel.processes import Processes
from clapkit.training.sound.mels import CachedMels, check_exact
from clapkit.units import seconds_to_samples


def decoded(recipe: Recipe, clips: Sequence[Clip], frontend: Frontend, *, shown: bool) -> CachedAudio:
    """The clips at the rate of the front-end, in the cache on disk.

    RecipeError first, where `train.cache_mel` is set and a view has no exact form on the mel of this front-end.
    """
    if recipe.train.cache_mel:
        check_exact(recipe.views, frontend)
    with ProgressBar("decoding", len(clips), shown=shown) as bar:
        return cache_audio(clips, rate_hz=frontend.rate_hz, progress=lambda done, total: bar.update(done, total))


def kept_mels(
    recipe: Recipe, model: DualEncoder, audio: CachedAudio, processes: Processes, *, clip_s: float, shown: bool
) -> CachedMels | None:
    """What `train.cache_mel` asks for, computed and open; None where it is not set.

    The bar says how much will be written before it is. Raises DataError where there is no room.
    """
    if not recipe.train.cache_mel:
        return None
    samples = seconds_to_samples(clip_s, audio.rate_hz)
    mels = CachedMels(audio, model.frontend, fill=model.windowing.fill, clip_samples=samples)

    def prepare() -> None:
        missing = mels.missing_bytes
        size = f", {missing / 1e6:.0f} MB to {mels.folder}" if missing else ""
        with ProgressBar(f"mel spectra{size}", len(audio), shown=shown) as bar:
            mels.prepare(progress=lambda done, total: bar.update(done, total))

    processes.in_turn(prepare)
    return mels
