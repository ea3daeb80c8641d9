"""The door of the library: load, embed, classify, compare, search, train.

No torch is imported until a model is loaded, so that an index can be searched by vectors without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from clapkit.errors import AudioErrors, AudioFailure, ClapkitError, ModelError, TextTowerError
from clapkit.text.prompts import DEFAULT, fill

if TYPE_CHECKING:
    from clapkit.data.clip import Clip
    from clapkit.model import DualEncoder
    from clapkit.native import Loaded
    from clapkit.recipe import Recipe
    from clapkit.runtime.engine import Embedded, Failed
    from clapkit.runtime.program import Program
    from clapkit.runtime.ready import Ready
    from clapkit.text.tokenizers import TextTokenizer
    from clapkit.training.loop import Run

OnError = Literal["raise", "nan"]
_TEXTS_AT_ONCE, _TEXT_BATCH = 4096, 16


def load(
    path_or_name: str | os.PathLike = "clapkit-tiny",
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    *,
    provider: str | None = None,
    variant: str | None = None,
    text: str | os.PathLike | None = None,
    trust: Sequence[str] = (),
    compile: bool = False,
    calibration: Sequence[Any] | None = None,
) -> Clap:
    """Load a model for use: one of ours, or any public checkpoint, recognised by its tensors.

    path_or_name   a model folder, the folder of a training run, a checkpoint file or folder of another library, or
                   "hf://owner/name" on the Hugging Face hub, or a short name (docs/checkpoints.md), or a folder that
                   `clapkit export` wrote, for which no torch is needed (docs/export.md). Without any: the model of
                   the environment variable CLAPKIT_MODEL, or of the data package beside clapkit (docs/tiny.md)
    device         "auto" (an accelerator where there is one), "cpu", "cuda", ...
    precision      "fp32", "bf16" (not with "onnx") or "int8": what the audio tower computes in (docs/speed.md)
    threads        processor threads; with torch for the whole process; None leaves them as they are
    provider       the runtime: "torch", "onnx" (onnxruntime) or "openvino". None: torch; for an exported folder
                   "openvino" where it is installed. Other models are exported once into the cache for the latter two.
    variant        settings that a checkpoint lacks, such as the name of the folder that it was published in
    text           for a checkpoint without a language side: the checkpoint or text encoder folder that it belongs to
    trust          packages besides clapkit whose parts the configuration may name: loading runs their code
    compile        compile the audio tower by torch.compile: a minute at the first batch, worth it on accelerators only
    calibration    sounds that "int8" takes its ranges from, like those it will hear; None: 64 clips of the built-in
                   sound world and some test signals, heard once and remembered
    """
    from clapkit.opening import open_model

    return Clap(
        open_model(
            path_or_name,
            device=device,
            precision=precision,
            threads=threads,
            provider=provider,
            variant=variant,
            text=text,
            trust=trust,
            compile=compile,
            calibration=None if calibration is None else _as_list(calibration),
        )
    )


class Clap:
    """A model ready for use; make it with `clapkit.load`."""

    def __init__(self, model: Ready | Loaded, *, device: str = "auto", precision: str = "fp32") -> None:
        """`device` and `precision` are for a model that is in no runtime yet: it goes to torch."""
        if hasattr(model, "program"):
            ready = cast("Ready", model)
        else:
            from clapkit.opening import in_torch

            ready = in_torch(cast("Loaded", model), device=device, precision=precision)
        self._ready = ready
        self.program: Program = ready.program
        self._tokenizer = ready.tokenizer
        self.folder = ready.folder
        self.precision, self.provider = ready.precision, ready.provider
        self.space_id, self.pipeline_id = ready.space_id, ready.pipeline_id
        self.report = ready.report

    @property
    def model(self) -> DualEncoder:
        """The torch model. ModelError where another runtime runs it."""
        return self.loaded.model

    @property
    def loaded(self) -> Loaded:
        """The torch model with what belongs to it (Spec, tokenizer, report). ModelError as for `model`."""
        if self._ready.loaded is None:
            raise ModelError(
                f"'{self.folder}' runs by provider '{self.provider}', without torch: there is no torch model here. "
                "Load the model that it was exported from, with provider='torch'"
            )
        return self._ready.loaded

    @property
    def rate_hz(self) -> int:
        """Rate of the samples that the model hears; other sound is resampled."""
        return self.program.rate_hz

    @property
    def family(self) -> str:
        """Where the weights came from: "clapkit", "laion", "msclap"... (`report` has the details)."""
        return self.report.family

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        return self.program.dimension

    def embed_audio(
        self,
        sources: Sequence[Any],
        on_error: OnError = "raise",
        batch_size: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """One unit-norm vector a source, float32 [n, d].

        sources    list of path | bytes | (array [samples] or [samples, channels], rate_hz)
        on_error   "raise": one AudioErrors that lists index, source and reason of all that failed;
                   "nan": a row of NaN for each of them
        """
        if on_error not in ("raise", "nan"):
            raise ClapkitError(f"on_error is 'raise' or 'nan', not {on_error!r}")
        sources = _as_list(sources)
        vectors = np.full((len(sources), self.dimension), np.nan, np.float32)
        failures: list[AudioFailure] = []
        for result in self.embed_each(sources, batch_size=batch_size, progress=progress):
            if hasattr(result, "error"):
                failures.append(AudioFailure(result.index, result.error.source, result.error.reason))
            else:
                vectors[result.index] = result.vector_D
        if failures and on_error == "raise":
            raise AudioErrors(sorted(failures, key=lambda f: f.index))
        return vectors

    def embed_each(
        self,
        sources: Sequence[Any],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        workers: int | None = None,
    ) -> Iterator[Embedded | Failed]:
        """The same with every window's vector and time, one result a source as they are finished."""
        from clapkit.runtime.engine import AudioEngine

        sources = _as_list(sources)
        engine = AudioEngine(self.program, batch_size=batch_size)
        with _progress(len(sources), progress) as on_done:
            yield from engine.embed(sources, workers=workers, on_done=on_done)

    def embed_windows(self, source: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The unit-norm vectors of the windows of one source [w, d], and where each starts and ends [w], in seconds.

        Their mean, weighted as docs/sound-in.md says and brought to unit norm, is the row of `embed_audio`.
        """
        result = self._only(self.embed_each([source]))
        start_s = np.array(result.starts_s)
        return result.windows_WD, start_s, np.minimum(start_s + result.window_s, result.duration_s)

    def embed_frames(self, source: Any) -> tuple[np.ndarray, np.ndarray]:
        """Unit-norm vectors of the frames of one source [T, d], and the middle of each [T], in seconds.

        A frame is what the tower gives for one of its steps, brought into the space by the head; where windows overlap,
        each gives its side of the middle. SpecError for models that have no vectors of single frames.
        """
        from clapkit.runtime.engine import AudioEngine

        result = self._only(AudioEngine(self.program).frames([source]))
        return result.frames_TD, result.times_s

    @staticmethod
    def _only(results: Iterator[Any]) -> Any:
        (result,) = results
        if hasattr(result, "error"):
            raise AudioErrors([AudioFailure(0, result.error.source, result.error.reason)])
        return result

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """One unit-norm vector a text, float32 [n, d]. A text's vector does not depend on the others."""
        if isinstance(texts, str):
            raise ClapkitError("embed_text takes a list of texts; for one text, give [text]")
        texts = list(texts)
        tokenizer = self._text_tokenizer()
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            ids, mask = tokenizer.encode(texts[first : first + _TEXTS_AT_ONCE])
            tokens = mask.sum(1)
            # Like lengths together: what is filled up costs as much as what is said.
            order = np.argsort(tokens, kind="stable")
            for part in np.split(order, range(_TEXT_BATCH, len(order), _TEXT_BATCH)):
                longest = tokens[part[-1]]
                vectors[first + part] = self.program.encode_tokens(ids[part, :longest], mask[part, :longest])
        return vectors

    def embed_tokens(self, ids_BL: Any, mask_BL: Any = None) -> np.ndarray:
        """One unit-norm vector a row of token ids, float32 [B, d]: text embedding without a tokenizer.

        ids_BL    integers [B, L], short rows filled with the model's padding id
        mask_BL   True (or 1) where a token is real; None: wherever the id is not the padding id
        """
        self._need_language()
        try:
            ids = np.asarray(ids_BL)
        except ValueError:
            raise ClapkitError("embed_tokens takes rows of one length: fill short ones with the padding id") from None
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.size == 0:
            raise ClapkitError(f"embed_tokens takes integers [B, L], not {ids.dtype} {list(ids.shape)}")
        mask = ids != self._ready.pad_id if mask_BL is None else np.asarray(mask_BL).astype(bool)
        if mask.shape != ids.shape:
            raise ClapkitError(f"the mask {list(mask.shape)} has to have the shape of the ids {list(ids.shape)}")
        return self.program.encode_tokens(ids.astype(np.int64), mask)

    def _need_language(self) -> None:
        if self._ready.text_missing is not None:
            raise TextTowerError(self._ready.text_missing)

    def _text_tokenizer(self) -> TextTokenizer:
        """The tokenizer of the model; fetched at the first text where it was not found beside the checkpoint."""
        self._need_language()
        if self._tokenizer is None:
            from clapkit.text.locate import fetch_tokenizer

            if self.report.tokenizer is None:
                known = "".join(f"\n  - {note}" for note in self.report.notes if "tokenizer" in note)
                raise TextTowerError(
                    f"'{self.folder}' came without its tokenizer: embed token ids (embed_tokens).{known}"
                )
            self._tokenizer = self._ready.tokenizer_in(fetch_tokenizer(self.report.tokenizer))
        assert self._tokenizer is not None, "fetch_tokenizer gives a folder with a tokenizer or raises"
        return self._tokenizer

    def save(self, folder: str | os.PathLike) -> str:
        """Write the model folder that `load` reads, whatever the model came from; returns its space_id."""
        from clapkit import native

        loaded = self.loaded
        return native.save(
            loaded.model,
            loaded.spec,
            os.fspath(folder),
            tokenizer=self._tokenizer,
            report=loaded.report,
            aside=loaded.aside,
            pad_id=loaded.pad_id,
        )

    def classify(
        self,
        sources: Sequence[Any],
        labels: Sequence[str],
        template: str | None = None,
        top_k: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """For each source the labels with their probabilities, best first.

        The probabilities are a softmax over these labels at the model's temperature: they sum to 1 over the labels you
        give, so they say which of them fits best, not whether any does. `template` ("this is the sound of {}" unless
        given) makes a sentence of each label.
        """
        labels = _checked_labels(labels, top_k)
        return self.classify_vectors(self.embed_audio(sources), labels, template=template, top_k=top_k)

    def classify_vectors(
        self, audio_ND: np.ndarray, labels: Sequence[str], *, template: str | None = None, top_k: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """The same for sounds that are embedded already: unit-norm rows of `embed_audio`."""
        labels = _checked_labels(labels, top_k)
        sentence = DEFAULT if template is None else template
        cosine = audio_ND @ self.embed_text([fill(sentence, label) for label in labels]).T
        logits = cosine.astype(np.float64) * self.program.scale
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        return [[(labels[c], float(row[c])) for c in order] for row, order in zip(probabilities, best, strict=True)]

    def similarity(self, sources: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        """Cosine of every source with every text, float32 [n, m]."""
        return self.embed_audio(sources) @ self.embed_text(texts).T


def train(
    recipe: str | Recipe,
    data: Any,
    *,
    out: str | os.PathLike,
    resume: bool = False,
    progress: bool = False,
    splits: Mapping[str, Sequence[str]] | None = None,
    columns: Mapping[str, str] | None = None,
    scale: str | None = None,
    device: str = "auto",
    start: str | os.PathLike | None = None,
    variant: str | None = None,
    text: str | os.PathLike | None = None,
    services: Sequence[str] = (),
    workers: int = 1,
    eval_data: Any = None,
    eval_splits: Mapping[str, Sequence[str]] | None = None,
    **sets: Any,
) -> Run:
    """Train a recipe on captioned sound and leave the run in the folder `out`.

    recipe    a Recipe, the name of one ("contrastive"), or "module:attribute"
    data      a manifest or folder, a list of them, or a list of Clips
    splits    column -> wanted values;  columns: role -> column, as in `clapkit.data.manifest.read`
    scale     "tiny", "small", "paper": another size of the same method;  workers: threads that make batches ahead
    start     for `finetune` and its like, the model to train further: whatever `load` takes. `variant` and `text` are
              as there; here, `text` may also be a text encoder that the sound side was never trained with
    services  where the log goes besides log.jsonl: "tensorboard", "trackio", "wandb"
    eval_data like `data`, with `eval_splits`: scored on every 200 steps, or as the recipe's `evaluate` says
    sets      settings of the recipe by dotted path, with __ for the dot: train__steps=500
    """
    from clapkit.opening import need_torch

    need_torch("Training")
    from clapkit.cookbook import find_recipe
    from clapkit.judging import evaluated, judge_by
    from clapkit.recipe import Recipe
    from clapkit.training.loop import train as run

    if not isinstance(recipe, Recipe):
        recipe = find_recipe(recipe)
    if scale is not None:
        recipe = recipe.at(scale)
    recipe = recipe if eval_data is None else evaluated(recipe)
    for path, value in sets.items():
        recipe = recipe.with_set(path.replace("__", "."), value)
    clips, given = _clips(data, columns, splits), None
    heard = () if eval_data is None else _clips(eval_data, columns, eval_splits)
    judge = judge_by(heard, recipe, shown=progress) if eval_data is not None else None
    if start is not None:
        from clapkit.checkpoints.hub import locate
        from clapkit.checkpoints.load import read_model

        spoken = None if text is None else locate(text)
        given = read_model(locate(start), variant=variant, text=spoken, join=True)
    how: dict[str, Any] = {"resume": resume, "device": device, "progress": progress, "services": services}
    result = run(recipe, clips, out=os.fspath(out), start=given, workers=workers, judge=judge, **how)
    assert result is not None, "only stop_at_step ends a run early"
    return result


def _clips(data: Any, columns: Mapping[str, str] | None, splits: Mapping[str, Sequence[str]] | None) -> Sequence[Clip]:
    from clapkit.data.clip import Clip
    from clapkit.data.manifest import read_all

    sources: list[Any] = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if sources and all(isinstance(s, Clip) for s in sources):
        return sources
    return read_all(sources, columns=columns, splits=splits).clips


def _as_list(sources: Any) -> list[Any]:
    is_one = isinstance(sources, (str, bytes, os.PathLike, np.ndarray)) or hasattr(sources, "read")
    if is_one or (isinstance(sources, tuple) and sources and isinstance(sources[0], np.ndarray)):
        raise ClapkitError("a list of sounds is expected; for one sound, give [sound], for samples [(array, rate_hz)]")
    return list(sources)


def _checked_labels(labels: Sequence[str], top_k: int | None) -> list[str]:
    if isinstance(labels, str) or not (labels := list(labels)):
        raise ClapkitError("classify needs a list of labels, at least one")
    if top_k is not None and top_k < 1:
        raise ClapkitError(f"top_k is at least 1, not {top_k}")
    return labels


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    from clapkit.progress import ProgressBar

    with ProgressBar("embedding", total, shown=shown) as bar:
        yield lambda done: bar.update(done)
