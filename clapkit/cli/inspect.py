"""clapkit inspect: what a checkpoint is, and what becomes of everything in it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clapkit.cli.checkpoints import SOURCES, Variant, read_checkpoint
from clapkit.cli.options import Trust
from clapkit.cli.terminal import print_json, results, say, table

_Model = Annotated[str, typer.Argument(metavar="MODEL", help=SOURCES)]
_Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def add_to(app: typer.Typer) -> None:
    app.command("inspect", epilog="Example:  clapkit inspect 630k-audioset-best.pt")(inspect)


def inspect(model: _Model, variant: Variant = None, as_json: _Json = False, trust: Trust = None) -> None:
    """Say what a checkpoint is: family, sizes, front-end, window, licence, and what is not taken over, and why.

    The file is recognised by its tensors, never by its name, and nothing in it is run. A few texts and sounds are then
    embedded: weights that are no numbers and vectors that are all alike are told, as is what is known to be wrong with
    a published file.
    """
    loaded = read_checkpoint(model, variant=variant, trust=trust)
    from clapkit.checkpoints.card import describe
    from clapkit.checkpoints.health import problems
    from clapkit.checkpoints.known import KNOWN, short_name

    numbers = {name: parameter.numel() for name, parameter in loaded.model.named_parameters()}
    facts = describe(loaded.spec, numbers, loaded.report, space_id=loaded.space_id)
    known_as = short_name(loaded.folder)
    facts = {
        "path": str(loaded.folder),
        "known_as": known_as,
        **facts,
        "tokenizer_found": loaded.tokenizer is not None,
        "warning": KNOWN[known_as].warning if known_as else None,
        "problems": problems(loaded),
    }
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    console = results()
    total = sum(facts["parameters"].values())
    rows = [
        *([("known as", facts["known_as"])] if facts["known_as"] else ()),
        *([("warning", facts["warning"])] if facts["warning"] else ()),
        *(("problem", problem) for problem in facts["problems"]),
        ("family", f"{facts['family']}: {facts['about']}"),
        ("licence", facts["licence"]),
        ("space", f"{facts['dimension']} dimensions, {facts['space_id']}"),
        ("parameters", f"{total:,}: " + ", ".join(f"{part} {count:,}" for part, count in facts["parameters"].items())),
        ("towers", ", ".join(f"{side} {tower or 'none'}" for side, tower in facts["towers"].items())),
        ("front-end", facts["front_end_in_words"]),
        ("window", facts["window_in_words"]),
        ("texts", _texts(facts)),
        *(("assumed", note) for note in facts["assumed"]),
    ]
    if facts["mapped"]:
        rows.append(("taken over", f"{facts['mapped']} tensors"))
    console.print(table(facts["path"], ("", "what it is"), rows))
    left = [
        (entry["tensors"], entry["count"], what, entry["reason"])
        for what in ("computed", "dropped")
        for entry in facts[what]
    ]
    if left:
        columns = ("tensors of the file", "count", "", "why they are not read")
        console.print(table("not taken over", columns, left, numbers=("count",)))
    say(f"Use it:  clapkit embed FOLDER --model {facts['path']} --out vectors.parquet")


def _texts(facts: dict[str, Any]) -> str:
    if facts["text_missing"] or facts["towers"]["text"] is None:
        return f"none: {facts['text_missing'] or 'the model has no language side'}"
    if facts["tokenizer_found"]:
        return "tokenizer found"
    named = f"the tokenizer {facts['tokenizer']}" if facts["tokenizer"] else "its tokenizer"
    return f"{named} is not here: put its tokenizer.json beside the file; token ids can be embedded without it"
