"""From any checkpoint to a model: read, recognised, mapped, filled, and every tensor accounted for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from clapkit import native
from clapkit.audio.frontends import build_frontend
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.reading import read
from clapkit.checkpoints.rules import Mapped, Rule, names_of, to_ours
from clapkit.checkpoints.table import IMPORTERS
from clapkit.checkpoints.text_side import find_tokenizer, with_text
from clapkit.errors import CheckpointError, ModelError
from clapkit.model import DualEncoder
from clapkit.native import Loaded
from clapkit.provenance import Report
from clapkit.spec import Spec, derive
from clapkit.towers.hf import build_to_fill

# Filters that differ by less come from another rounding of the same formula.
_SAME_FILTERS = 1e-5


def read_model(
    path: str | os.PathLike,
    *,
    variant: str | None = None,
    text: str | os.PathLike | None = None,
    join: bool = False,
    trust: tuple = (),
) -> Loaded:
    """A model from a native folder, a run, or any checkpoint that an importer of `table.IMPORTERS` recognises.

    variant   what the file does not say about itself (the folder name that M2D was published under...)
    text      where the language side comes from, for files without one: a checkpoint that has it, or the folder of a
              text encoder
    join      let a sound side that was trained with other texts or none begin in the space of `text` (for training)

    Raises CheckpointError for what is unknown, damaged or does not fit, naming every tensor; never a partial load.
    """
    path = Path(path)
    if is_native(path):
        loaded = native.load(path, trust=trust)
        if variant is not None:
            raise ModelError(
                f"'{path}' is a model folder of ours, which describes itself: leave out variant={variant!r}"
            )
    else:
        loaded = _imported(read(path, variant=variant))
    return loaded if text is None else with_text(loaded, Path(text), read_model, join=join)


def is_native(path: Path) -> bool:
    """Whether `path` is a model folder or a run, rather than a foreign checkpoint (or nothing)."""
    if not path.exists() or (path / "checkpoints").is_dir():
        return True  # native.load says what is wrong with it
    if not path.is_dir():
        return False
    try:
        return native.is_ours(native.find_folder(path))
    except ModelError:
        return False


def recognise(foreign: Foreign) -> Importer:
    """The importer whose family this is. CheckpointError that shows what the file looks like if there is none."""
    shapes = foreign.shapes
    for importer in IMPORTERS:
        if importer.recognises(shapes):
            return importer
    if almost := [(i.family, missing) for i in IMPORTERS if (missing := _almost(i, shapes)) is not None]:
        whole = "; or it is not whole as ".join(f"{family}: missing: {name}" for family, name in almost)
        raise CheckpointError(f"'{foreign.path}' looks like {almost[0][0]}, but it is not whole as {whole}")
    shown = "\n  - ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:8])
    known = "\n  - ".join(f"{i.family}: {i.about}" for i in IMPORTERS)
    raise CheckpointError(
        f"'{foreign.path}' is no checkpoint that is known here. Its {len(shapes)} tensors begin with\n  - {shown}\n"
        f"Known are\n  - {known}"
    )


class _Forgiving(dict):
    """Shapes that claim to hold one name that they do not, the first that is asked for in vain."""

    missing: str | None = None
    found = 0

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            self.found += 1
            return True
        if self.missing is None:
            self.missing = str(name)
        return name == self.missing


def _almost(importer: Importer, shapes: Shapes) -> str | None:
    """The one tensor for want of which the importer does not recognise a file; None where more than that is wrong."""
    forgiving = _Forgiving(shapes)
    try:
        recognised = importer.recognises(forgiving)
    except LookupError:  # it went on to look at the shape of what is not there
        recognised = True
    return forgiving.missing if recognised and forgiving.found >= 2 else None


def _imported(foreign: Foreign) -> Loaded:
    importer = recognise(foreign)
    try:
        plan = importer.plan(foreign)
        native.check_sizes(plan.model)
        if plan.no_text is not None:
            plan = replace(plan, model=derive(plan.model, text_missing=plan.no_text))
        plan, mapped = _filterbank(plan, foreign, to_ours(foreign.tensors, plan.rules))
        model = _filled(plan, mapped, foreign)
    except ModelError as error:
        raise CheckpointError(f"'{foreign.path}' looks like {importer.family}, but {error}") from error
    except native.NOT_BUILT as error:
        raise CheckpointError(f"'{foreign.path}' looks like {importer.family}, but cannot be built: {error}") from error
    if foreign.variant is not None and not importer.takes_variant:
        unused = f"variant={foreign.variant!r} is not used: files of this family say themselves what they are"
        plan = replace(plan, notes=(*plan.notes, unused))
    spec = native.whole_spec(model, plan.model)
    tokenizer = find_tokenizer(model, foreign.path, plan.tokenizer)
    report = _report(importer, plan, mapped)
    return Loaded(
        model,
        tokenizer,
        spec,
        native.space_id(model, spec),
        foreign.path,
        report=report,
        aside=mapped.aside if importer.writes is None else mapped.aside | mapped.computed,
        pad_id=plan.pad_id,
    )


def _filled(plan: Plan, mapped: Mapped, foreign: Foreign) -> DualEncoder:
    tensors = dict(mapped.ours)
    model: DualEncoder = build_to_fill(plan.model.build, tensors)
    for name, wanted in model.state_dict().items():
        if name in tensors:
            continue
        if name in plan.constants:
            tensors[name] = torch.full(tuple(wanted.shape), plan.constants[name], dtype=wanted.dtype)
        elif name.endswith("num_batches_tracked"):
            tensors[name] = torch.zeros_like(wanted)  # a count of training steps that nothing reads
        elif name == "logit_scale" and model.text is None:
            tensors[name] = wanted  # the Spec's: there are no texts to score against
    native.fill(model, tensors, foreign.path, shown=lambda name: _shown(name, plan.rules))
    return model.eval()


def _shown(ours: str, rules: tuple[Rule, ...]) -> str:
    """A tensor by its name in the file, where it has one there."""
    theirs = ", ".join(names_of(ours, rules))
    return f"{theirs} ({ours} here)" if theirs else ours


def _filterbank(plan: Plan, foreign: Foreign, mapped: Mapped) -> tuple[Plan, Mapped]:
    """Take the file's own mel filter bank where it differs from the one that its settings give."""
    stored = foreign.tensors.get(plan.filterbank or "")
    if stored is None:
        return plan, mapped
    ours = build_frontend(plan.model.arguments["frontend"]).filterbank
    if tuple(stored.shape) != tuple(ours.shape):
        raise CheckpointError(
            f"its filter bank {plan.filterbank} has shape {list(stored.shape)}, not {list(ours.shape)}"
        )
    difference = float((stored.float() - ours).abs().max())
    if difference <= _SAME_FILTERS * float(ours.abs().max()):
        return plan, mapped
    note = f"the mel filter bank of the file is used: it differs from that of its settings by up to {difference:.2g}"
    tensors = {**mapped.ours, "frontend.stored_filterbank": stored.float()}
    model: Spec = derive(plan.model, stored_filterbank=True)
    return replace(plan, model=model, notes=(*plan.notes, note)), replace(mapped, ours=tensors)


def _report(importer: Importer, plan: Plan, mapped: Mapped) -> Report:
    dropped = {name: reason for name, reason in mapped.reasons.items() if name in mapped.aside}
    computed = {name: reason for name, reason in mapped.reasons.items() if name not in mapped.aside}
    return Report(
        family=importer.family,
        about=importer.about,
        licence=importer.licence,
        mapped=len(mapped.ours),
        computed=computed,
        dropped=dropped,
        notes=plan.notes,
        tokenizer=plan.tokenizer,
        text_missing=plan.no_text,
    )
