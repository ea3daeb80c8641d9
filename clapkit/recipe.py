"""A recipe: everything that makes a training run, but the data."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clapkit.data.batches import BatchSize
from clapkit.data.sampling import Sampler, Shuffled
from clapkit.data.texts import TextChoice
from clapkit.errors import RecipeError, SpecError, nearest_name
from clapkit.spec import Spec, derive, from_json, to_json
from clapkit.train_settings import Evaluate, Stage, TrainSettings, TuneSettings

# What a batch holds without any view: sound always, text because a clip without any is refused before training.
_GIVEN = ("audio", "text")
# What the data or the model may have: known when the run begins, and refused by the step where they have not.
_FOUND_OUT: tuple[str, ...] = (
    "soft_target",
    "label",
    "tag",
    "audio_other",
    "frames",
    "frame_mask",
    "events",
    "private",
    "text_private",
)
_FOUND_OUT += ("text_other",)
_OF_FRAMEWISE = ("text_prior", "text_scale")  # of a model with such a head


@dataclass(frozen=True)
class Recipe:
    """A frozen value; `but` derives another, `at` changes the scale, `with_set` changes one number.

    model       Spec of the dual encoder; None in a recipe that trains a given model further (`tune`)
    objective   what is minimised
    views       how clips are altered, in order
    batch       clips in a batch and seconds of each
    texts       how the texts of a batch are drawn
    sampler     the order of the clips
    train       length, learning rate, precision, seed
    tune        how a given model is changed; None: the run builds its own
    scales      name -> {dotted path: value}; what `at(name)` changes
    beside      what teaches or learns beside the model, and is left behind at the end (`training.companions`)
    stages      stretches of the run that differ in objective, rate, and what learns; none: the run is one
    evaluate    how often the run is scored while it goes, if it is given clips for that; None: not at all
    """

    model: Spec | None
    objective: Any
    views: tuple[Any, ...] = ()
    batch: BatchSize = field(default_factory=BatchSize)
    texts: TextChoice = field(default_factory=TextChoice)
    sampler: Sampler = field(default_factory=Shuffled)
    train: TrainSettings = field(default_factory=TrainSettings)
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tune: TuneSettings | None = field(default=None, metadata={"omit_default": True})
    beside: tuple[Any, ...] = field(default=(), metadata={"omit_default": True})
    stages: tuple[Stage, ...] = field(default=(), metadata={"omit_default": True})
    evaluate: Evaluate | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        for name in ("views", "beside", "stages"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if (self.model is None) == (self.tune is None):
            raise RecipeError(
                "a recipe has either a model to build or tune settings for the model that a run is given (--from), "
                f"and this one has {'neither' if self.model is None else 'both'}"
            )
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise RecipeError(f"stages are made of Stage(share=..., ...), not of {stage!r}")
        if self.evaluate is not None and not isinstance(self.evaluate, Evaluate):
            raise RecipeError(f"evaluate is Evaluate(every_steps=...) or None, not {self.evaluate!r}")
        for part in self.beside:
            if not hasattr(part, "adds"):
                raise RecipeError(f"what stands beside a model says what it adds, and {part!r} does not")
        for view in self.views:
            _check_view(view)
        for objective in self.objectives:
            self._check_needs(objective)
        seen_mel = False
        for view in self.views:
            if view.domain == "mel":
                seen_mel = True
            elif view.domain == "audio" and seen_mel:
                raise RecipeError(f"{type(view).__name__} changes samples and has to stand before the mel views")
        if self.train.cache_mel:
            self._check_mel_forms()

    @property
    def objectives(self) -> tuple[Any, ...]:
        """Every objective of the run: the recipe's, and those of stages that have one of their own."""
        return (self.objective, *(stage.objective for stage in self.stages if stage.objective is not None))

    def _check_mel_forms(self) -> None:
        unfit = [type(v).__name__ for v in self.views if v.domain == "audio" and getattr(v, "mel_form", None) is None]
        if unfit:
            raise RecipeError(
                f"train.cache_mel: {', '.join(unfit)} changes samples in a way that no cached mel can follow exactly; "
                "leave such views out of the recipe, or set train.cache_mel=false"
            )

    def _check_needs(self, objective: Any) -> None:
        if isinstance(objective, type) or not _is_names(getattr(objective, "needs", None)):
            raise RecipeError(
                f"{objective!r} is no objective: the value of a frozen dataclass is expected whose `needs` is "
                "a tuple of texts such as ('audio', 'text')"
            )
        added = {name for part in (*self.views, *self.beside) for name in part.adds}
        head = _OF_FRAMEWISE if self.model is None or self.model.arguments.get("framewise") is not None else ()
        missing = [need for need in objective.needs if need not in {*_GIVEN, *_FOUND_OUT, *head, *added}]
        if missing:
            raise RecipeError(
                f"{type(objective).__name__} needs {missing} but no view adds it, nor what stands beside the model; "
                f"these add {sorted(added) or 'nothing'}"
            )

    def but(self, **changes: Any) -> Recipe:
        """A recipe that differs from this one in the named fields."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise RecipeError(f"a recipe has no field '{name}'; {nearest_name(name, known)}")
        return dataclasses.replace(self, **changes)

    def at(self, scale: str) -> Recipe:
        """The same method at another scale: "tiny", "small", "paper"."""
        if scale not in self.scales:
            raise RecipeError(f"this recipe has no scale '{scale}'; {nearest_name(scale, list(self.scales))}")
        changed = self
        for path, value in self.scales[scale].items():
            changed = changed.with_set(path, value)
        return changed

    def with_set(self, path: str, value: Any) -> Recipe:
        """Change what exists: `with_set("train.steps", 500)`, `with_set("model.audio.width", 48)`."""
        return _replace(self, path.split("."), value, path)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` rebuilds exactly."""
        return to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any], *, trust: tuple[str, ...] = ()) -> Recipe:
        """Rebuild a recipe that `to_json` wrote; parts outside clapkit need their package in `trust`."""
        recipe = from_json(dict(data), trust=trust)
        if not isinstance(recipe, Recipe):
            raise RecipeError(f"the file holds a {type(recipe).__name__}, not a recipe")
        return recipe


def _check_view(view: Any) -> None:
    lacking = [name for name in ("adds", "domain", "draw", "apply") if not hasattr(view, name)]
    if isinstance(view, type) or lacking:
        what = f"which lacks {', '.join(lacking)}" if lacking else "a class: put its value there, with ()"
        raise RecipeError(f"views are frozen dataclasses with adds, domain, draw and apply, and not {view!r}, {what}")
    if view.domain not in ("audio", "mel", "text"):
        raise RecipeError(f"the domain of {view!r} is audio, mel or text, not {view.domain!r}")
    if not _is_names(view.adds):
        raise RecipeError(f"what {view!r} adds is a tuple of texts, not {view.adds!r}")


def _is_names(names: Any) -> bool:
    return isinstance(names, tuple) and all(isinstance(name, str) for name in names)


def _replace(node: Any, path: list[str], value: Any, whole: str) -> Any:
    """A copy of `node` (dataclass, Spec or tuple) with the value at `path` replaced."""
    name, rest = path[0], path[1:]
    children = _children(node)
    if name not in children:
        raise RecipeError(f"cannot set '{whole}': {_label(node)} has no '{name}'; {nearest_name(name, list(children))}")
    current = children[name]
    if rest:
        new = _replace(current, rest, value, whole)
    else:
        new = _coerce(current, value, whole, declared=_declared(node, name))
    try:
        if isinstance(node, Spec):
            return derive(node, **{name: new})
        if isinstance(node, tuple):
            return (*node[: int(name)], new, *node[int(name) + 1 :])
        return dataclasses.replace(node, **{name: new})
    except (SpecError, TypeError, ValueError) as error:  # a part of somebody else's may raise either of the latter
        raise RecipeError(f"cannot set '{whole}' to {value!r}: {error}") from error


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, Spec):
        defaults = {
            n: p.default for n, p in inspect.signature(node.resolve()).parameters.items() if p.default is not p.empty
        }
        return {**defaults, **node.arguments}
    if isinstance(node, tuple):
        return {str(i): v for i, v in enumerate(node)}
    if dataclasses.is_dataclass(node):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    return {}


def _label(node: Any) -> str:
    return node.target.rpartition(":")[2] if isinstance(node, Spec) else type(node).__name__


def _declared(node: Any, name: str) -> frozenset[str]:
    """The words of a child's annotation: what it is now may say less, such as the 120 of a float, or None."""
    annotation: Any = ""
    if isinstance(node, Spec):
        annotation = inspect.signature(node.resolve()).parameters[name].annotation
    elif dataclasses.is_dataclass(node):
        annotation = next(f.type for f in dataclasses.fields(node) if f.name == name)
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return frozenset(re.findall(r"\w+", text))


def _coerce(current: Any, value: Any, path: str, *, declared: frozenset[str]) -> Any:
    """`value` in the kind of `current`, or in one that is `declared`; text from a command line is read as that kind."""
    is_part = isinstance(current, Spec) or dataclasses.is_dataclass(current)
    if isinstance(value, str) and not isinstance(current, str) and not is_part:
        value = _from_text(value, path)
    if value is None and "None" in declared:
        return None
    if current is None and declared <= {"int", "float", "bool", "None"}:
        return _in_place_of_none(value, path, declared=declared)
    if "float" in declared and isinstance(value, float) and isinstance(current, int):
        return value
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if is_part and not isinstance(value, type(current)):
        raise RecipeError(f"'{path}' is a part ({current!r}), not a number: name one of its fields, or derive a recipe")
    if isinstance(current, bool) != isinstance(value, bool) and current is not None:
        raise RecipeError(f"'{path}' is {current!r}; {value!r} is of another kind")
    if isinstance(current, int) and isinstance(value, float):
        if not value.is_integer():
            raise RecipeError(f"'{path}' is a whole number ({current!r}), not {value!r}")
        return int(value)
    if isinstance(current, float) and isinstance(value, int):
        return float(value)
    if current is not None and not isinstance(value, type(current)):
        raise RecipeError(f"'{path}' is {current!r}; {value!r} is of another kind")
    return value


def _in_place_of_none(value: Any, path: str, *, declared: frozenset[str]) -> Any:
    """A number (or true, false) where there was none."""
    if "float" not in declared and isinstance(value, float) and value.is_integer():
        return int(value)
    kinds = {*declared, "int"} if "float" in declared else declared
    if type(value).__name__ not in kinds:
        wanted = "a number" if "float" in declared else "true or false" if "bool" in declared else "a whole number"
        raise RecipeError(f"'{path}' is {wanted} or none, not {value!r}")
    return value


def _from_text(text: str, path: str) -> Any:
    try:
        return json.loads({"none": "null", "true": "true", "false": "false"}.get(text.lower(), text))
    except json.JSONDecodeError:
        raise RecipeError(
            f"'{path}' cannot be set to {text!r}: a number, true, false, none or [...] is expected"
        ) from None
