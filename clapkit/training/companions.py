"""What learns or teaches beside the model during a run, and is left behind at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from clapkit.audio.features import Features
from clapkit.data.batches import Batch
from clapkit.errors import RecipeError, SpecError, nearest_name
from clapkit.heads.predicted import PredictedHead, Predictor
from clapkit.model import DualEncoder
from clapkit.objectives.base import Embeddings, Objective, Reduces
from clapkit.recipe import Recipe
from clapkit.spec import Spec, derive
from clapkit.training.beside.masking import HiddenPatches, Hiding, check_tower
from clapkit.training.beside.priors import PriorTable, TextPriors, counted_log_odds, mean_log_odds
from clapkit.training.beside.queue import READERS, KeptNegatives, Queue, reads_queue
from clapkit.training.beside.transforms import Transforms
from clapkit.training.ema import Average, copied
from clapkit.training.loader import Loader
from clapkit.training.optim import autocast
from clapkit.training.parallel.sharding import shard
from clapkit.training.step import EncodeTexts

Source = Literal["ema", "given"]
_PREDICTIONS = ("audio_prediction", "text_prediction")
_FIELDS = {  # what a network makes of the vectors of one side
    "audio_prediction": "audio_prediction_BD",
    "text_prediction": "text_prediction_UD",
    "audio_other": "audio_other_BD",
    "text_other": "text_other_UD",
}


@dataclass(frozen=True)
class Teacher:
    """A model that hears and reads what the batch holds, all tokens of it, and takes no gradient.

    source   "ema": the moving average of the weights, as fast as `train.ema` says (cards 022, 065, 077). "given": the
             model that the run was given, as it was (self-distillation, learning without forgetting; card 009)
    """

    source: Source = "ema"

    adds: ClassVar[tuple[str, ...]] = ("audio_teacher", "text_teacher", "teacher_scale")

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            near = nearest_name(str(self.source), get_args(Source))
            raise SpecError(f"the source of a teacher cannot be {self.source!r}; {near}")


@dataclass(frozen=True)
class Predictors:
    """Two small networks, one for sound and one for texts, that guess the teacher's vector from the model's own (BYOL,
    Grill et al. 2020; card 077). They learn with the model.

    result   the run ends with their predictions: each becomes the last part of its head (`heads.predicted`). For
             objectives that ask the predictors of both sides for the same, because before them the sides need not lie
             together. False: they are left behind
    """

    hidden_width: int = 2048
    result: bool = field(default=False, metadata={"omit_default": True})

    adds: ClassVar[tuple[str, ...]] = _PREDICTIONS

    def __post_init__(self) -> None:
        if self.hidden_width < 1:
            raise SpecError(f"hidden_width has to be at least 1, not {self.hidden_width}")

    def build(self, width: int, *, seed: int) -> nn.ModuleDict:
        """The networks for vectors of `width`, with weights that `seed` alone decides."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.ModuleDict({name: Predictor(width, hidden=self.hidden_width) for name in _PREDICTIONS})


@dataclass(frozen=True)
class Predicted:
    """`objective` with what networks make of the batch's vectors filled in: a function of these like any other.

    networks  name of a need -> network; what begins with "audio" is made of audio_BD, the others of text_UD
    """

    objective: Objective
    networks: nn.ModuleDict

    @property
    def needs(self) -> tuple[str, ...]:
        others = (need for need in self.objective.needs if need not in self.networks)
        return tuple(dict.fromkeys(("audio", "text", *others)))

    @property
    def reduces(self) -> Reduces:
        return self.objective.reduces

    def __call__(self, z: Embeddings) -> Mapping[str, torch.Tensor]:
        made = {}
        for name, network in self.networks.items():
            vectors = z.audio_BD if name.startswith("audio") else z.text_UD
            made[_FIELDS[name]] = functional.normalize(network(vectors.to(_dtype(network))), dim=-1)
        return self.objective(replace(z, **made))


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


class Companions:
    """Everything that stands beside the model of a run: the average of its weights, teachers, and what learns with it.

    `encoder_of(model)` encodes texts with the language side of that model. `loader` makes the batches in which
    `TextPriors` counts; a `framewise` head of the model begins with what was counted, unless it was trained before
    (`tune`).
    """

    def __init__(
        self,
        recipe: Recipe,
        model: DualEncoder,
        *,
        encoder_of: Callable[[DualEncoder], EncodeTexts],
        precision: str,
        loader: Loader | None = None,
    ) -> None:
        check(recipe)
        settings = recipe.train
        self._average_is_result = settings.ema_result
        self.average: Average | None = None
        self.learners: dict[str, nn.Module] = {}
        self._hiding: Hiding | None = None
        self._teaching: dict[str, Any] | None = None
        self.queue: KeptNegatives | None = None
        self._kept = next((part for part in recipe.beside if isinstance(part, Predictors) and part.result), None)
        if settings.ema is not None:
            self.average = Average(model, decay=settings.ema, warmup=settings.ema_warmup)
        for part in recipe.beside:
            if isinstance(part, (Predictors, Transforms)):
                self.learners[type(part).__name__.lower()] = part.build(model.dimension, seed=settings.seed)
            elif isinstance(part, HiddenPatches):
                decoder = part.build(model.audio, seed=settings.seed)
                taught = self.average.model if self.average is not None and part.target == "teacher" else None
                self.learners["decoder"] = decoder
                self._hiding = Hiding(part, decoder, taught, settings.seed)
            elif isinstance(part, TextPriors):
                assert loader is not None, "a run with TextPriors has batches to count in"
                self._count(part, recipe, model, loader)
            elif isinstance(part, Queue):
                clips = () if loader is None else loader.clips
                self.queue = part.build(model.dimension, clips=clips).to(model.device)
            else:
                teacher = self.average.model if self.average and part.source == "ema" else copied(model)
                given = {"teacher": teacher, "encode_texts": encoder_of(teacher), "precision": precision}
                self._teaching = given
        for learner in self.learners.values():
            learner.to(model.device)

    def _count(self, part: TextPriors, recipe: Recipe, model: DualEncoder, loader: Loader) -> None:
        batches = (loader.make(step) for step in range(part.batches))
        rates = {"rate_hz": model.frontend.rate_hz, "frame_rate_hz": model.audio.frame_rate_hz}
        if model.framewise is None:
            self.learners["priors"] = PriorTable(counted_log_odds(batches, **rates))
        elif recipe.tune is None:
            with torch.no_grad():
                model.framewise.bias.linear2.bias.fill_(mean_log_odds(counted_log_odds(batches, **rates)))

    @property
    def predictors(self) -> nn.ModuleDict | None:
        """The networks of `Predictors`."""
        found = self.learners.get("predictors")
        assert found is None or isinstance(found, nn.ModuleDict)
        return found

    def extras(self, objective: Objective) -> tuple[Callable[..., dict[str, torch.Tensor]], ...]:
        """What a step asks for further fields, of which it fills those that `objective` needs."""
        made: list[Callable[..., dict[str, torch.Tensor]]] = []
        asked = objective.needs if self.queue is None else (*objective.needs, "audio_teacher", "text_teacher")
        wanted = frozenset(asked) & frozenset(Teacher.adds)
        if self._teaching is not None and wanted:
            made.append(_Teaching(**self._teaching, wanted=wanted))
        if "priors" in self.learners and "text_prior" in objective.needs:
            made.append(self.learners["priors"])
        if self._hiding is not None and set(HiddenPatches.adds) & set(objective.needs):
            made.append(self._hiding)
        return tuple(made)

    def with_predictions(self, objective: Objective) -> Objective:
        """`objective`, given what predictors and transforms make of each batch if it reads that."""
        pairs = [self.learners[name] for name in ("predictors", "transforms") if name in self.learners]
        networks = {name: net for pair in pairs for name, net in pair.named_children() if name in objective.needs}
        return Predicted(objective, nn.ModuleDict(networks)) if networks else objective

    def shard(self, model: DualEncoder, *, ranks: int) -> DualEncoder:
        """Share out `model` and the average that follows it; the model without weights (`parallel.sharding.shard`)."""
        if self.average is not None:
            shard(self.average.model, learning=[p.requires_grad for p in model.parameters()], ranks=ranks)
        return shard(model, ranks=ranks)

    def after_step(self, steps_done: int) -> None:
        """Follow the weights that the optimizer's step number `steps_done` (from 1) has left; what its batch held
        becomes negatives of the next ones."""
        if self.average is not None:
            self.average.update(steps_done)
        if self.queue is not None:
            self.queue.advance()

    def give_result(self, model: DualEncoder) -> None:
        """Leave in `model` what the run ends with: the average, unless it only taught."""
        if self.average is not None and self._average_is_result:
            self.average.give_to(model)

    def finish_heads(self, model: DualEncoder, model_spec: Spec) -> Spec:
        """Put the predictors behind the heads of the finished model, if they belong to it; the Spec of what it is then.

        `model_spec` describes the model as it is.
        """
        if self._kept is None or self.predictors is None:
            return model_spec
        described: dict[str, Spec] = {}
        for name, network in self.predictors.items():
            which = f"{name.removesuffix('_prediction')}_head"
            head = getattr(model, which)
            inner = head.spec() if hasattr(head, "spec") else model_spec.arguments[which]
            whole = PredictedHead.around(head, network, head_spec=inner, hidden_width=self._kept.hidden_width)
            setattr(model, which, whole.eval())
            described[which] = whole.spec()
        return derive(model_spec, **described)

    @contextmanager
    def as_result(self, model: DualEncoder, model_spec: Spec) -> Iterator[DualEncoder]:
        """Inside, the model that the run would end with now, in eval mode; the run goes on with `model` as it was.

        What is done once at the end is not in it: the blend with the given weights, and anchors of the run's texts.
        """
        shown = self.average.model if self.average is not None and self._average_is_result else model
        modules = [module for part in (shown, *self.learners.values()) for module in part.modules()]
        modes = [module.training for module in modules]
        heads = {name: getattr(shown, name) for name in ("audio_head", "text_head")}
        try:
            self.finish_heads(shown.eval(), model_spec)
            yield shown
        finally:
            for name, head in heads.items():
                setattr(shown, name, head)
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode

    def state(self) -> dict[str, torch.Tensor]:
        """The live tensors that a checkpoint has to hold, by name."""
        found = {f"average.{k}": v for k, v in self.average.state().items()} if self.average else {}
        for name, learner in self.learners.items():
            found |= {f"{name}.{k}": v for k, v in learner.state_dict().items()}
        if self.queue is not None:
            found |= {f"queue.{k}": v for k, v in self.queue.state_dict().items()}
        return found

    def parameters(self) -> Iterable[nn.Parameter]:
        """What learns beside the model."""
        return (p for learner in self.learners.values() for p in learner.parameters())


def check(recipe: Recipe) -> None:
    """Raise RecipeError for parts that cannot stand beside the recipe's model, before anything is decoded."""
    kinds = [type(part) for part in recipe.beside]
    for part in recipe.beside:
        if not isinstance(part, (Teacher, Predictors, Transforms, TextPriors, Queue, HiddenPatches)):
            raise RecipeError(
                "beside a model stand Teacher, Predictors, Transforms, TextPriors, Queue and HiddenPatches, not "
                f"{part!r}"
            )
        if isinstance(part, Queue):
            _check_queue(recipe, part)
        tower = recipe.model.arguments["audio"].resolve() if recipe.model is not None else None
        if isinstance(part, HiddenPatches) and isinstance(tower, type):
            check_tower(tower)
        if isinstance(part, HiddenPatches) and part.target == "teacher" and recipe.train.ema is None:
            raise RecipeError(f"{part!r} is taught by the moving average of the weights: set e.g. train.ema=0.999")
        if kinds.count(type(part)) > 1:
            raise RecipeError(f"a recipe has at most one {type(part).__name__}, this one has {kinds.count(type(part))}")
        if isinstance(part, Predictors) and part.result and recipe.tune is not None and recipe.tune.blend < 1:
            raise RecipeError(
                f"{part!r} becomes part of the heads, and tune.blend={recipe.tune.blend} mixes them with heads that "
                "have none: set tune.blend=1, or result=False"
            )
        if isinstance(part, Teacher) and part.source == "ema" and recipe.train.ema is None:
            raise RecipeError(
                f"{part!r} is the moving average of the weights: say how slow it is, e.g. train.ema=0.995"
            )
        if isinstance(part, Teacher) and part.source == "given" and recipe.tune is None:
            raise RecipeError(
                f"{part!r} is the model that a run is given, and this recipe builds its own: use source='ema'"
            )


def _check_queue(recipe: Recipe, part: Queue) -> None:
    if not any(isinstance(other, Teacher) and other.source == "ema" for other in recipe.beside):
        raise RecipeError(
            f"{part!r} holds what a slowly following teacher says: put Teacher(source='ema') beside it, and say how "
            "slow it is, e.g. train.ema=0.995"
        )
    for objective in recipe.objectives:
        if not reads_queue(objective):
            raise RecipeError(
                f"{part!r} makes further negatives, and {type(objective).__name__} reads none. These do: "
                f"{', '.join(reader.__name__ for reader in READERS)}, and what needs {' or '.join(Queue.adds)}"
            )


@dataclass(frozen=True)
class _Teaching:
    """The teacher's answer to a batch, as a step asks for it; `wanted` names the fields without their axes."""

    teacher: DualEncoder
    encode_texts: EncodeTexts
    precision: str
    wanted: frozenset[str]

    @torch.no_grad()
    def __call__(
        self, model: DualEncoder, batch: Batch, features: Features, encode_texts: EncodeTexts
    ) -> dict[str, torch.Tensor]:
        found = {"teacher_scale": self.teacher.scale}
        if "audio_teacher" in self.wanted:
            with autocast(self.precision, model.device):
                found["audio_teacher_BD"] = self.teacher.encode_features(features).float()
        if "text_teacher" in self.wanted:
            with autocast("fp32", model.device):  # as the texts of the model itself
                found["text_teacher_UD"] = self.encode_texts(batch.texts)
        return found
