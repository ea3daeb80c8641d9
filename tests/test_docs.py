"""Every fenced block of README.md and docs/*.md does what it says.

```python   the blocks of one document run one after the other, in one process and namespace, in a temporary folder
```sh       `clapkit ...` lines run there too, between the Python blocks, by the entry point of the console script;
            `make` and `pip install` lines are checked against the repository
```sh long  lines that take minutes or need data: parsed by the real parser, with their recipe and settings, not run
```json     parses
```text     pictures
Anything else, a block without a language among it, is a failure.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LANGUAGES = ("python", "sh", "sh long", "json", "text")

# A world of sound and a run for the documents that do not make their own.
GROUND = """
import clapkit
from clapkit.building.soundworld import write_world

write_world("world", train=32, test=40, test_scenes=0, test_combinations=24, test_kinds=0)
data = {"data": "world/manifest.jsonl", "splits": {"split": ["train"]}}
clapkit.train("soundworld", **data, out="run", scale="tiny", train__steps=4)
"""


@dataclass(frozen=True)
class Block:
    """One fenced block: `line` is that of its first line of content."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a sh block; a backslash joins lines, comments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a document, without the indentation of a list that they may stand in."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = re.match(r"( *)```(.*)$", lines[number])
        number += 1
        if not opening:
            continue
        indent, first = len(opening[1]), number
        while lines[number].strip() != "```":  # an IndexError is a block that is never closed
            number += 1
        content = "".join(line[indent:] + "\n" for line in lines[first:number])
        found.append(Block(opening[2].strip(), content, first + 1))
        number += 1
    return found


DOCUMENT_BLOCKS = {path.name: blocks_of(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
ALL_BLOCKS = [
    pytest.param(block, id=f"{name}:{block.line}") for name, blocks in DOCUMENT_BLOCKS.items() for block in blocks
]


def commands(*programs: str, languages: tuple[str, ...] = ("sh", "sh long")) -> list:
    """The commands of all documents that begin with one of these words."""
    return [
        pytest.param(words, id=f"{name}:{block.line} {' '.join(words)[:50]}")
        for name, blocks in DOCUMENT_BLOCKS.items()
        for block in blocks
        if block.language in languages
        for words in block.commands
        if words[0] in programs
    ]


# ---- Running a document ----------------------------------------------------------------------------------------------


def run_blocks(name: str, blocks: list[Block]) -> None:
    """Run Python blocks and `clapkit` lines in this process, in the current folder; any failure is an exception."""
    from clapkit.cli.main import main

    document = types.ModuleType("document")
    for block in blocks:
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the document
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            exec(compile(source, name, "exec", dont_inherit=True), document.__dict__)  # its own __future__
        for words in block.commands if block.language == "sh" else ():
            if words[0] != "clapkit":
                continue
            print("$", shlex.join(words), flush=True)
            sys.argv = words
            try:
                main()
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"{name}:{block.line}: exit status {end.code}: {shlex.join(words)}") from None


def run_in(folder: Path, name: str, blocks: list[Block]) -> None:
    """`run_blocks` in a process of its own, with a folder as its current one."""
    job = json.dumps({"name": name, "blocks": [asdict(block) for block in blocks]})
    done = subprocess.run(
        [sys.executable, __file__], input=job.encode(), cwd=folder, capture_output=True, check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{name} does not run:\n{said[-4000:]}"


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """A folder with `world/` and `run/`, made once."""
    folder = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "clapkit-cache"))
        run_in(folder, "ground", [Block("python", GROUND, 1)])
    return folder


def is_run(block: Block) -> bool:
    in_shell = block.commands if block.language == "sh" else ()
    return block.language == "python" or any(words[0] == "clapkit" for words in in_shell)


@pytest.mark.timeout(600)  # it takes 15 s of processor time, on a busy machine many times that
@pytest.mark.parametrize("name", [name for name, blocks in DOCUMENT_BLOCKS.items() if any(map(is_run, blocks))])
def test_a_document_runs_from_top_to_bottom(name, tmp_path, request):
    pytest.importorskip("torch")
    blocks = DOCUMENT_BLOCKS[name]
    if not any("write_world(" in block.text for block in blocks):
        shutil.copytree(request.getfixturevalue("ground"), tmp_path, dirs_exist_ok=True)
    run_in(tmp_path, name, blocks)


# ---- Blocks that are looked at ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ALL_BLOCKS)
def test_a_block_says_what_it_is(block):
    assert block.language in LANGUAGES, f"line {block.line}: ```{block.language} is none of {', '.join(LANGUAGES)}"
    if block.language == "json":
        json.loads(block.text)
    for words in block.commands if block.language.startswith("sh") else ():
        further = ("python", "torchrun", "accelerate") if block.language == "sh long" else ()
        checked = ("clapkit", "make", "pip", *further)
        assert words[0] in checked, f"line {block.line}: nothing checks `{words[0]}`"


@pytest.mark.parametrize("words", commands("make"))
def test_a_make_target_exists(words):
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words[1:]) <= set(targets)
    if shutil.which("make"):
        subprocess.run(["make", "-n", *words[1:]], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.mark.parametrize("words", commands("pip"))
def test_what_is_installed_exists(words):
    assert words[1] == "install"
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for option, value in zip(words[2:], [*words[3:], ""], strict=True):
        if option in ("-c", "-r"):
            assert (REPOSITORY / value).is_file()
        wanted = re.fullmatch(r"(?:\.|clapkit)\[([\w,]+)\]", option)
        assert set(wanted[1].split(",") if wanted else ()) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize("words", commands("python", languages=("sh long",)))
def test_a_script_that_takes_long_is_there_and_compiles(words):
    module = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    script = REPOSITORY / module
    compile(script.read_text(encoding="utf-8"), str(script), "exec")


@pytest.mark.parametrize("words", commands("clapkit", languages=("sh long",)))
def test_a_command_that_takes_long_would_be_understood(words):
    pytest.importorskip("torch")
    understood(words[1:])


@pytest.mark.parametrize("words", commands("torchrun", "accelerate", languages=("sh long",)))
def test_what_is_started_several_times_would_be_understood(words):
    pytest.importorskip("torch")
    assert words[words.index("-m") + 1] == "clapkit"
    understood(words[words.index("-m") + 2 :])


def understood(words: list[str]) -> None:
    """Parse the words of a `clapkit` command as it would, and look up the recipe and settings of a training."""
    from typer.main import get_command

    from clapkit.cli.main import app
    from clapkit.cookbook import find_recipe

    command, words = get_command(app), list(words)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command '{words[:1]}': {sorted(command.commands)}"
        command = command.commands[words.pop(0)]
    given = command.make_context("clapkit", words).params
    if "recipe" in given:
        recipe = find_recipe(given["recipe"])
        recipe = recipe.at(given["scale"]) if given["scale"] else recipe
        for setting in given["sets"] or ():
            recipe.with_set(*setting.split("=", 1))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in DOCUMENTS])
def test_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [link for link in linked if not (path.parent / link).exists()]
    named = re.findall(r"`((?:clapkit|tests|docs|proofs|benchmarks)/[\w./-]+)`", text)
    missing += [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


# ---- The checks themselves -------------------------------------------------------------------------------------------


def test_blocks_are_found_with_their_lines():
    text = "a\n```python\nx = 1\n```\n- in a list\n  ```sh long\n  clapkit train \\\n    a  # why\n  ```\n"
    assert blocks_of(text) == [
        Block("python", "x = 1\n", 3),
        Block("sh long", "clapkit train \\\n  a  # why\n", 7),
    ]
    assert blocks_of(text)[1].commands == [["clapkit", "train", "a"]]
    with pytest.raises(IndexError):
        blocks_of("```python\nx = 1\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train contrastive --data a --out b --set train.stepz=3", "stepz"),
        ("train contrastiv --data a --out b", "contrastiv"),
        ("train contrastive --data a --out b --colour red", "colour"),
        ("eval zeroshot run --data a", "zeroshot"),
        ("train contrastive --out b", "data"),
    ],
)
def test_a_long_command_with_a_slip_is_found(line, found):
    pytest.importorskip("torch")
    understood(shlex.split("train contrastive --data a --split fold=1,2 --out b --scale tiny --set train.steps=3"))
    with pytest.raises(Exception, match=found):
        understood(shlex.split(line))


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Block("python", "x = 1\nassert x == 2\n", 5), r"slips.md.*line 6"),
        (Block("sh", "clapkit recipes show contrastiv\n", 5), "exit status 2"),
    ],
)
def test_a_block_that_fails_is_found(block, reason, tmp_path):
    with pytest.raises(AssertionError, match=reason):
        run_in(tmp_path, "slips.md", [block])


if __name__ == "__main__":
    given = json.loads(sys.stdin.buffer.read())
    run_blocks(given["name"], [Block(**block) for block in given["blocks"]])
