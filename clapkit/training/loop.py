"""The training road, from a recipe and clips to a run folder. Read it from top to bottom.

RUN/
    recipe.json    the recipe, versions, any start        log.jsonl     one line every `log_every` steps
    data.json      what was trained on, what was not      checkpoints/  the newest ones
    model/         the result, written at the end
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clapkit import __version__
from clapkit.data.batches import Batch, BatchSize
from clapkit.data.cache import CachedAudio, cache_audio
from clapkit.data.clip import Clip
from clapkit.errors import DataError, ModelError
from clapkit.files import atomic_file
from clapkit.heads.anchors import AnchoredLinear
from clapkit.heads.emphasis import TextEmphasis
from clapkit.model import DualEncoder
from clapkit.native import Loaded, save
from clapkit.progress import ProgressBar
from clapkit.recipe import Recipe
from clapkit.training import checkpoint
from clapkit.training.beginning import Beginning, begin, check_fed
from clapkit.training.companions import Companions
from clapkit.training.companions import check as check_companions
from clapkit.training.loader import Loader, described, prefetched
from clapkit.training.log import Logs, check_services
from clapkit.training.optim import build_optimizer, resolve_precision
from clapkit.training.stages import check_names, freeze, stretches
from clapkit.training.step import EncodeTexts, How, take_step
from clapkit.training.text_features import TextFeatures
from clapkit.training.tuning import blend, rate_shares, to_training_mode


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    path: Path
    steps: int
    seconds: float
    space_id: str

    @property
    def model_path(self) -> Path:
        """The model folder, for `clapkit.load`."""
        return self.path / "model"

    def log(self) -> list[dict[str, Any]]:
        """The records of log.jsonl."""
        return [json.loads(line) for line in (self.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def train(
    recipe: Recipe,
    clips: Sequence[Clip],
    *,
    out: str | Path,
    start: Loaded | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = False,
    stop_at_step: int | None = None,
    services: Sequence[str] = (),
) -> Run | None:
    """Train `recipe` on `clips` and leave everything in the folder `out`.

    start          the model that a recipe with `tune` settings trains further; it is changed, load it for this alone
    resume         go on from the newest checkpoint in `out` (start, if there is none)
    stop_at_step   write a checkpoint at that step and return None: for tests and for jobs with a time limit
    services       where the log goes besides log.jsonl: names of `training.log.SERVICES`
    Raises DataError, RecipeError or ModelError before the first step for whatever can be known then, and ModelError
    when a loss or a gradient is not finite, naming the clips of that batch; the last finite weights are kept.
    """
    started = time.monotonic()
    # ---- Folder ------------------------------------------------------------------------------------------------------
    out = Path(out)
    checkpoints = out / "checkpoints"
    done = checkpoint.list_steps(checkpoints)
    if not resume and (done or (out / "model").exists()):
        raise DataError(f"'{out}' holds a run already: go on with it (resume=True, --resume) or choose another folder")
    _check_before(recipe, clips, services)
    out.mkdir(parents=True, exist_ok=True)
    # ---- Model -------------------------------------------------------------------------------------------------------
    where = _device(device)
    begun = begin(recipe, start, where)
    model, tokenizer = begun.model, begun.tokenizer
    precision = resolve_precision(recipe.train.precision, where)
    # ---- Data --------------------------------------------------------------------------------------------------------
    audio = _decode(clips, model.frontend.rate_hz, progress)
    loader = Loader(audio, fill=model.windowing.fill, **_loader_settings(recipe, begun.batch))
    _check_clips(loader.clips)  # again: those that could not be decoded are gone
    total = recipe.train.total_steps(len(audio), recipe.batch.clips)
    planned = stretches(recipe, total)
    check_names(planned, model)
    # ---- Text --------------------------------------------------------------------------------------------------------
    encoder_of = _text_encoders(recipe, begun, loader, progress)
    encode_texts = encoder_of(model)
    # ---- Optimizer and state -----------------------------------------------------------------------------------------
    companions = Companions(recipe, model, encoder_of=encoder_of, precision=precision)
    beside = tuple(companions.parameters())
    optimizer = build_optimizer(model, recipe.train, shares=_rate_shares(recipe, model), beside=beside)
    learning = tuple(model.learnt())
    live = checkpoint.held(model, companions.state())
    told = json.loads(json.dumps(recipe.to_json()))
    digests = _data_digest(loader.clips, audio), checkpoint.frozen_digest(model)
    here = checkpoint.Progress(0, told, *digests, begun.start_id)
    first = 0
    if done:
        found = checkpoint.read_progress(done[-1])
        checkpoint.check_fits(found, here, done[-1])
        checkpoint.restore(done[-1], live, optimizer)
        first = found.step
    _write_json(out / "recipe.json", _recipe_report(recipe, begun))
    _write_json(out / "data.json", _data_report(clips, audio, total, precision))
    # ---- Steps -------------------------------------------------------------------------------------------------------
    end = total if stop_at_step is None else min(total, stop_at_step)
    saved_at = time.monotonic()
    waited, busy, counted = 0.0, 0.0, first
    how = _how(recipe, encode_texts, loader, precision)
    stretch = None
    shown = ProgressBar("training", total, first=first, shown=progress)
    with Logs(out, first_step=first, services=services, about=told) as log, shown as bar:
        mark = time.monotonic()
        for batch in prefetched(loader, first, end):
            ready = time.monotonic()
            step = batch.step
            torch.manual_seed((recipe.train.seed << 32) + step)  # dropout of a step is a function of the step
            if stretch is None or step >= stretch.end:
                stretch = next(s for s in planned if s.first <= step < s.end)
                to_training_mode(model, recipe.tune)
                freeze(model, stretch, learning)
                objective = companions.with_predictions(stretch.objective)
                how = replace(how, extras=companions.extras(stretch.objective))
            rate = stretch.lr_at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.zero_grad(set_to_none=True)
            losses = take_step(model, objective, batch, how)
            value = float(sum(losses.values()))
            learnt = [*(p for _, p in model.learnt()), *beside]
            norm = float(torch.nn.utils.clip_grad_norm_(learnt, recipe.train.clip_norm))
            if not (math.isfinite(value) and math.isfinite(norm)):
                if checkpoint.is_finite(live):
                    checkpoint.write(checkpoints, live, optimizer, replace(here, step=step), keep=recipe.train.keep)
                raise _not_finite(batch, value, norm)
            optimizer.step()
            companions.after_step(step + 1)
            now = time.monotonic()
            waited, busy, mark = waited + ready - mark, busy + now - ready, now
            if (step + 1) % recipe.train.log_every == 0 or step + 1 == end:
                speed = (step + 1 - counted) * recipe.batch.clips / max(waited + busy, 1e-9)
                about = {"lr": rate, "scale": float(model.scale.detach()), "clips_per_s": speed}
                parts = {name: float(part) for name, part in losses.items()}
                share = waited / max(waited + busy, 1e-9)
                log.write({"step": step, "loss": value, **parts, **about, "wait_share": share})
                waited = busy = 0.0
                counted = step + 1
                bar.update(step + 1, note=f"loss {value:.3f}  {speed:.0f} clips/s")
            if now - saved_at > recipe.train.checkpoint_s or step + 1 == end:
                checkpoint.write(checkpoints, live, optimizer, replace(here, step=step + 1), keep=recipe.train.keep)
                saved_at = time.monotonic()
    # ---- Result ------------------------------------------------------------------------------------------------------
    if end < total:
        return None
    model.eval()
    companions.give_result(model)
    if begun.weights is not None and recipe.tune is not None:
        blend(model.state_dict(), begun.weights, share=recipe.tune.blend)
    if isinstance(model.audio_head, AnchoredLinear):
        model.audio_head.add(_in_parts(encode_texts, loader.all_texts()))
    space = save(model, begun.spec, out / "model", tokenizer=tokenizer, **begun.origin)
    return Run(out, total, time.monotonic() - started, space)


def _loader_settings(recipe: Recipe, batch: BatchSize) -> dict[str, Any]:
    made = {"views": recipe.views, "size": batch, "texts": recipe.texts, "sampler": recipe.sampler}
    second = any("audio_other" in objective.needs for objective in recipe.objectives)
    return {**made, "seed": recipe.train.seed, "second": second}


def _how(recipe: Recipe, encode_texts: EncodeTexts, loader: Loader, precision: str) -> How:
    train = recipe.train
    how = How(encode_texts, loader.mel_views, precision, drop_tokens=train.drop_tokens, seed=train.seed)
    return replace(how, micro_batch=train.micro_batch, batch_norm=train.batch_norm)


def _rate_shares(recipe: Recipe, model: DualEncoder) -> dict[str, float] | None:
    if recipe.tune is None:
        return None
    names = (name for name, _ in model.named_parameters())
    return rate_shares(names, decay=recipe.tune.layer_decay, tower=recipe.tune.tower_rate)


def _recipe_report(recipe: Recipe, begun: Beginning) -> dict[str, Any]:
    report = {"clapkit": __version__, "torch": torch.__version__, "recipe": recipe.to_json()}
    if begun.start_id is not None:
        report["start"] = {"id": begun.start_id, "folder": str(begun.folder)}
    return report


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def _decode(clips: Sequence[Clip], rate_hz: int, shown: bool) -> CachedAudio:
    with ProgressBar("decoding", len(clips), shown=shown) as bar:
        return cache_audio(clips, rate_hz=rate_hz, progress=lambda done, total: bar.update(done, total))


def _text_encoders(
    recipe: Recipe, begun: Beginning, loader: Loader, shown: bool
) -> Callable[[DualEncoder], EncodeTexts]:
    """What makes an encoder of texts for the model, or for one with the same text tower beside it.

    A sampler that goes by texts is given what the frozen tower says of them.
    """
    model, tokenizer = begun.model, begun.tokenizer
    if not model.frozen_text:

        def encode(encoder: DualEncoder, texts: Sequence[str]) -> torch.Tensor:
            ids, mask = (torch.from_numpy(array).to(encoder.device) for array in tokenizer.encode(list(texts)))
            return encoder.encode_text(ids, mask)

        return lambda encoder: partial(encode, encoder)
    features = TextFeatures(model, tokenizer)
    texts = loader.all_texts()
    with ProgressBar("captions", len(texts), shown=shown) as bar:
        features.prepare(texts, progress=lambda done, total: bar.update(done, total))
    if recipe.sampler.embeds:
        loader.arrange(lambda texts: features(texts).numpy())
    if isinstance(model.text_head, TextEmphasis) and begun.start_id is None:  # one that was given has its place
        model.text_head.place(torch.nn.functional.normalize(features(texts), dim=-1))
    return lambda encoder: lambda texts: encoder.project_text(features(texts).to(encoder.device))


@torch.no_grad()
def _in_parts(encode_texts: EncodeTexts, texts: Sequence[str]) -> torch.Tensor:
    """Embeddings [K, D] of any number of texts, a few at a time: a tower that learns encodes them on the spot."""
    return torch.cat([encode_texts(texts[first : first + 64]) for first in range(0, len(texts), 64)])


def _not_finite(batch: Batch, loss: float, norm: float) -> ModelError:
    return ModelError(
        f"at step {batch.step} the loss became {loss} and the length of its gradient {norm}: lower train.lr, or "
        f"look at the sound. Clips of that batch: {', '.join(batch.ids)}"
    )


def _check_before(recipe: Recipe, clips: Sequence[Clip], services: Sequence[str]) -> None:
    """Refuse what can be known to fail before anything is decoded or written."""
    check_services(services)
    check_companions(recipe)
    _check_clips(described(clips, recipe.views, recipe.train.seed))
    check_fed(recipe, clips)


def _check_clips(clips: Sequence[Clip]) -> None:
    if not clips:
        raise DataError("there are no clips to train on")
    silent = [c.id for c in clips if not (c.captions or c.prompts)]
    if silent:
        raise DataError(
            f"{len(silent)} of {len(clips)} clips have neither a caption nor a label that a view turns into one", silent
        )
    texts = {t for c in clips for t in (*c.captions, *c.prompts)}
    if len(texts) < 2:
        raise DataError(f"all {len(clips)} clips have the same caption {texts}: there is nothing to tell apart")
    twice = [name for name, count in Counter(c.id for c in clips).items() if count > 1]
    if twice:
        raise DataError("clip ids are not unique; clapkit.data.manifest.read_all makes them so", twice)


def _data_digest(clips: Sequence[Clip], audio: CachedAudio) -> str:
    digest = hashlib.sha256()
    for position, clip in enumerate(clips):
        about = (clip.id, clip.start_s, audio.length_samples(position), clip.label, clip.captions, clip.prompts)
        digest.update(repr(about).encode())
        # Objectives and samplers read these too. Only where there are any: a run begun without them goes on as it was.
        further = (clip.wrong, clip.tags, clip.events, sorted(clip.meta.items()))
        if any(further):
            digest.update(repr(further).encode())
    return digest.hexdigest()


def _data_report(clips: Sequence[Clip], audio: CachedAudio, total: int, precision: str) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "used": len(audio),
        "steps": total,
        "precision": precision,
        "skipped": [{"source": f.source, "reason": f.reason} for f in audio.failures],
        "notes": list(audio.notes),
    }


def _write_json(path: Path, data: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(data, indent=2, ensure_ascii=False).encode())
