"""Recipes by name: the file name is the name, and `module:attribute` names those of other packages."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from clapkit.errors import ClapkitError, RecipeError, nearest_name, raised_at

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
        found = getattr(import_module(module), attribute)
    except ClapkitError:
        raise
    except Exception as error:  # the module is somebody's own: anything can happen in it
        raise RecipeError(f"cannot read the recipe '{name}': {raised_at(error)}") from error
    if not hasattr(found, "with_set") or isinstance(found, type):
        raise RecipeError(f"'{name}' is no recipe but {found!r}: name one made with Recipe(...) or another's .but()")
    return found


def recipe_files() -> dict[str, str]:
    """Recipe name -> module, from the files of clapkit/recipes/; nothing is imported."""
    root = Path(__file__).parent / "recipes"
    found = sorted(p for p in root.glob("*/*.py") if p.stem != "__init__")
    return {p.stem: f"clapkit.recipes.{p.parent.name}.{p.stem}" for p in found}
