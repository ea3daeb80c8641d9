"""A run in stretches, each with its own objective, rate, and what learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from clapkit.errors import RecipeError, nearest_name
from clapkit.model import DualEncoder
from clapkit.objectives.base import Objective
from clapkit.recipe import Recipe
from clapkit.train_settings import TrainSettings


@dataclass(frozen=True)
class Stretch:
    """Steps `first` to `end` (not included) of a run; parameters under the names `frozen` stay as they are."""

    first: int
    end: int
    objective: Objective
    settings: TrainSettings
    frozen: tuple[str, ...] = ()

    def lr_at(self, step: int) -> float:
        """Learning rate of the run's step `step`: each stretch warms up and cools down by itself."""
        return self.settings.lr_at(step - self.first, self.end - self.first)


def stretches(recipe: Recipe, total: int) -> tuple[Stretch, ...]:
    """The `total` steps of a run shared out among the stages of the recipe; one stretch where it has none.

    Raises RecipeError where a stage would get no step.
    """
    if not recipe.stages:
        return (Stretch(0, total, recipe.objective, recipe.train),)
    whole = sum(stage.share for stage in recipe.stages)
    made: list[Stretch] = []
    share = 0.0
    for number, stage in enumerate(recipe.stages):
        share += stage.share
        first, end = made[-1].end if made else 0, round(total * share / whole)
        if end <= first:
            raise RecipeError(f"stage {number} has no step: {total} steps are too few for shares of {stage.share:g}")
        settings = recipe.train if stage.lr is None else replace(recipe.train, lr=stage.lr)
        made.append(Stretch(first, end, stage.objective or recipe.objective, settings, stage.frozen))
    return tuple(made)


def check_names(planned: Sequence[Stretch], model: DualEncoder) -> None:
    """Raise RecipeError for a stage that freezes what the model has not, or everything."""
    learning = [name for name, _ in model.learnt()]
    for number, stretch in enumerate(planned):
        for prefix in stretch.frozen:
            if not any(_under(name, (prefix,)) for name in learning):
                known = sorted({".".join(name.split(".")[: prefix.count(".") + 1]) for name in learning})
                raise RecipeError(
                    f"stage {number} freezes '{prefix}', which does not learn; {nearest_name(prefix, known)}"
                )
        if all(_under(name, stretch.frozen) for name in learning):
            raise RecipeError(f"stage {number} freezes everything that learns: {', '.join(stretch.frozen)}")


def freeze(model: DualEncoder, stretch: Stretch, learning: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Let those of the parameters `learning` take a gradient that the stretch does not freeze.

    Frozen parts go to eval mode: dropout would move their vectors, and their running statistics would go on.
    """
    for name, parameter in learning:
        parameter.requires_grad_(not _under(name, stretch.frozen))
    for name, module in model.named_modules():
        if name and _under(name, stretch.frozen):
            module.eval()


def _under(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
