"""The shape of the house: who may import whom, how large a file may be, and what may not exist.

Read `LAYERS` as the picture: a module may import from its own folder and from the rows below it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "clapkit"

# From the top of the house to the bottom. Inside a row, folders do not import each other, except the pairs below.
LAYERS = [
    ["recipes", "__main__"],
    ["cli", "server", "adapters"],
    ["api", "library", "opening", "cookbook", "judging", "__init__"],
    ["checkpoints"],
    ["building", "captioning", "generation", "editing", "detection", "runtime"],
    ["training", "evaluation", "search"],
    ["model", "bridge", "recipe", "train_settings", "native", "provenance", "views"],
    ["objectives", "data"],
    ["towers", "heads", "nets"],
    ["audio", "text", "nearest"],
    ["spec", "errors", "units", "files", "progress"],
]
ALLOWED_SIDEWAYS = {
    ("towers", "nets"),
    ("heads", "nets"),
    ("evaluation", "search"),
    ("cli", "server"),
    ("cli", "adapters"),
    ("recipe", "train_settings"),
    ("library", "api"),
    ("api", "opening"),
    ("api", "cookbook"),
    ("api", "judging"),
    ("native", "model"),
    ("native", "provenance"),
    ("spec", "errors"),
    ("files", "errors"),
    ("progress", "errors"),
}
# The version lives in __init__, which imports nothing when it is imported.
ANYONE_MAY_IMPORT = {"__init__"}

FILE_LINES = 400
FILE_EXCEPTIONS: dict[str, int] = {}
FUNCTION_LINES = 60
FUNCTION_EXCEPTIONS = {("training/loop.py", "_train"): 120}
FOLDER_FILES = 16
FREE_FOLDERS = {"cli", "recipes", "evaluation/tasks"}
PUBLIC_METHODS = 10
METHOD_EXCEPTIONS = {"Clap": 16}
FORBIDDEN_STEMS = {"utils", "util", "helpers", "helper", "common", "misc"}
TORCH_FREE = [
    "errors",
    "units",
    "spec",
    "files",
    "progress",
    "nearest",
    "api",
    "library",
    "opening",
    "cookbook",
    "judging",
]
TORCH_FREE += ["search/exact"]
TORCH_FREE += ["runtime/engine", "runtime/graphs/exported", "runtime/graphs/program", "runtime/graphs/openvino"]
TORCH_FREE += ["audio/decode", "audio/resample", "audio/windows", "audio/pool", "data/clip", "data/manifest"]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def place(part: str) -> int:
    for row, names in enumerate(LAYERS):
        if part in names:
            return row
    raise AssertionError(f"'{part}' stands in no layer: add it to LAYERS on purpose")


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Top-level parts of clapkit that a file imports anywhere, type-checking blocks left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in ast.walk(node):
                inner.clapkit_skip = True  # type: ignore[attr-defined]
        if getattr(node, "clapkit_skip", False):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "clapkit" else [f"clapkit.{a.name}" for a in node.names]
        else:
            continue
        for name in names:
            if name == "clapkit" or name.startswith("clapkit."):
                part = name.split(".")[1] if "." in name else "__init__"
                found.add(part if (PACKAGE / part).exists() or (PACKAGE / f"{part}.py").exists() else "__init__")
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_an_import_goes_down_or_not_at_all(path):
    part = part_of(path)
    row = place(part)
    for other in imported_parts(path) - {part} - ANYONE_MAY_IMPORT:
        allowed = place(other) > row or (part, other) in ALLOWED_SIDEWAYS
        assert allowed, f"{name_of(path)} ({part}) imports {other}, which is not below it"


def test_objectives_import_only_errors_and_torch():
    for path in (PACKAGE / "objectives").glob("*.py"):
        assert imported_parts(path) <= {"errors", "objectives"}, name_of(path)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    name = name_of(path)
    limit = FILE_EXCEPTIONS.get(name, FILE_LINES)
    assert text.count("\n") <= limit, f"{name} has more than {limit} lines: it has become two ideas"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            allowed = FUNCTION_EXCEPTIONS.get((name, node.name), FUNCTION_LINES)
            assert length <= allowed, f"{name}: {node.name} has {length} lines, at most {allowed}"
        if isinstance(node, ast.ClassDef):
            public = [n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            allowed = METHOD_EXCEPTIONS.get(node.name, PUBLIC_METHODS)
            assert len(public) <= allowed, f"{name}: {node.name} has {len(public)} public methods, at most {allowed}"


def test_folders_stay_small_and_names_say_something():
    for folder in {p.parent for p in modules()}:
        parts = folder.relative_to(PACKAGE).parts
        if not parts or parts[0] in FREE_FOLDERS or "/".join(parts) in FREE_FOLDERS:
            continue
        files = [p for p in folder.glob("*.py") if p.stem != "__init__"]
        assert len(files) <= FOLDER_FILES, f"{folder.name} has {len(files)} files"
    for path in modules():
        assert path.stem not in FORBIDDEN_STEMS, f"{name_of(path)}: name it after what it holds"


def test_the_core_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
    names = [f"clapkit.{name.replace('/', '.')}" for name in TORCH_FREE] + ["clapkit", "clapkit.cli.main"]
    names += [f"clapkit.text.{p.stem}" for p in (PACKAGE / "text").glob("*.py") if p.stem != "__init__"]
    program = blocked + "\n".join(f"import {name}" for name in names)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_global_warnings_filter_and_no_star_imports():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"warnings.filterwarnings", "warnings.simplefilter"}, name_of(path)
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), name_of(path)


def test_recipes_are_short():
    for path in (PACKAGE / "recipes").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "recipe":
                assert node.end_lineno - node.lineno + 1 <= 40, f"{name_of(path)}: a recipe has at most 40 lines"
