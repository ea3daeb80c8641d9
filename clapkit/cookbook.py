"""Recipes by name: the file name is the name, and `module:attribute` names those of other packages."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from clapkit.errors import RecipeError, nearest_name

if TYPE_CHECKING:
    from clapkit.recipe import Recipe


def find_recipe(name: str) -> Recipe:
    """The recipe `name`: a file of clapkit/recipes/*/ by its file name, or `module:attribute` of any package."""
    module, _, attribute = name.partition(":")
    if not attribute:
        places = recipe_files()
        if name not in places:
            raise RecipeError(f"there is no recipe '{name}'; {nearest_name(name, list(places))}")
        module, attribute = places[name], "recipe"
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"cannot read the recipe '{name}': {error}") from error


def recipe_files() -> dict[str, str]:
    """Recipe name -> module, from the files of clapkit/recipes/; nothing is imported."""
    root = Path(__file__).parent / "recipes"
    found = sorted(p for p in root.glob("*/*.py") if p.stem != "__init__")
    return {p.stem: f"clapkit.recipes.{p.parent.name}.{p.stem}" for p in found}
