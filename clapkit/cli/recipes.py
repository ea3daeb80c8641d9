"""clapkit recipes: what can be trained, and what a name stands for in full."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from clapkit.cli.terminal import results, table

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Recipe name, or module:attribute.")]
_Scale = Annotated[str | None, typer.Option("--scale", help="Show it at this scale: tiny, small, paper.")]


def add_to(app: typer.Typer) -> None:
    verbs = typer.Typer(help="List the recipes, or show one in full.", no_args_is_help=True)
    verbs.command("list", epilog="Example:  clapkit recipes list")(list_recipes)
    verbs.command("show", epilog="Example:  clapkit recipes show contrastive --scale tiny")(show)
    app.add_typer(verbs, name="recipes")


def list_recipes() -> None:
    """Every recipe with the first line of its description. Nothing is imported."""
    rows = [(name, _docstring(path).partition("\n")[0]) for name, path in _files().items()]
    results().print(table("recipes", ("name", "what it is"), rows))


def show(name: _Name, scale: _Scale = None) -> None:
    """The resolved recipe as a tree: every part with its settings and the file and line that define it."""
    from clapkit.cookbook import find_recipe

    recipe = find_recipe(name)
    if scale is not None:
        recipe = recipe.at(scale)
    console = results()
    if name in _files():
        console.print(escape(_docstring(_files()[name])), highlight=False)
        console.print()
    tree = Tree(f"[bold]{escape(name)}[/bold]{f' at {escape(scale)}' if scale else ''}")
    for field in dataclasses.fields(recipe):
        _grow(tree, field.name, getattr(recipe, field.name))
    console.print(tree, highlight=False)


def _files() -> dict[str, Path]:
    from clapkit.cookbook import recipe_files

    root = Path(__file__).resolve().parents[2]
    return {name: root.joinpath(*module.split(".")).with_suffix(".py") for name, module in recipe_files().items()}


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _grow(tree: Tree, name: str, value: Any) -> None:
    """Hang `value` under `tree`: parts get their place and their settings, tuples of parts a branch for each."""
    from clapkit.spec import Spec

    if isinstance(value, Spec):
        branch = tree.add(_title(name, value.resolve()))
        for key, inner in value.arguments.items():
            _grow(branch, key, inner)
    elif dataclasses.is_dataclass(value):
        branch = tree.add(_title(name, type(value)))
        for field in dataclasses.fields(value):
            _grow(branch, field.name, getattr(value, field.name))
    elif isinstance(value, Mapping):
        branch = tree.add(escape(name))
        for key, inner in value.items():
            _grow(branch, str(key), inner)
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(v) for v in value):
        branch = tree.add(escape(name))
        for number, inner in enumerate(value):
            _grow(branch, str(number), inner)
    else:
        tree.add(f"{escape(name)} = {escape(repr(value))}")


def _title(name: str, part: Any) -> str:
    return f"{escape(name)}: [bold]{escape(part.__name__)}[/bold] [dim]{escape(_place(part))}[/dim]"


def _place(part: Any) -> str:
    """file:line of a part, the file as seen from the folder that holds the package."""
    path = Path(inspect.getsourcefile(part) or "").resolve()
    depth = len(part.__module__.split("."))
    return f"{Path(*path.parts[-depth:]).as_posix()}:{inspect.getsourcelines(part)[1]}"
