"""How the tensors of a foreign file become ours, as data: every rule says one thing and can be read backwards.

A name pattern is a dotted name in which `{i}` stands for one part without dots and `{rest*}` for one part or more:
`layers.{i}.attn.{p}` fits `layers.3.attn.weight`. The same fields stand on both sides of a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clapkit.errors import CheckpointError

_FIELD = re.compile(r"\{(\w+)(\*?)\}")


@dataclass(frozen=True)
class Rename:
    """The tensor as it is, under another name."""

    theirs: str
    ours: str


@dataclass(frozen=True)
class Split:
    """One of their tensors is cut along `dim` into equal parts, one for each of our names."""

    theirs: str
    ours: tuple[str, ...]
    dim: int = 0


@dataclass(frozen=True)
class Merge:
    """Several of their tensors are joined along `dim` into one of ours, equal parts in this order."""

    theirs: tuple[str, ...]
    ours: str
    dim: int = 0


@dataclass(frozen=True)
class Change:
    """The tensor with its axes or values rewritten: `there(back(x)) == x` bit for bit."""

    theirs: str
    ours: str
    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Computed:
    """A tensor that the model makes itself (kernels, indices, masks): present or absent, it is not read."""

    theirs: str
    reason: str


@dataclass(frozen=True)
class Drop:
    """A tensor that has no place here, and why it may go. It is kept aside for the way back (`Mapped.aside`)."""

    theirs: str
    reason: str


Rule = Rename | Split | Merge | Change | Computed | Drop


@dataclass(frozen=True)
class Mapped:
    """What a table of rules made of a file.

    ours      our name -> tensor
    aside     their name -> tensor that has no place here
    reasons   their name -> why it was computed or dropped
    computed  their name -> tensor that the model makes itself, as the file had it
    """

    ours: dict[str, Tensor]
    aside: dict[str, Tensor]
    reasons: dict[str, str]
    computed: dict[str, Tensor]


def transposed(theirs: str, ours: str) -> Change:
    """A matrix whose two axes are exchanged."""
    return Change(theirs, ours, lambda x: x.mT.contiguous(), lambda x: x.mT.contiguous())


def to_ours(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> Mapped:
    """Apply the first rule that fits each name. CheckpointError lists every name that no rule knows.

    Parts of a Merge that are incomplete are named too: nothing is guessed and nothing is left over.
    """
    result = Mapped({}, {}, {}, {})
    problems: list[str] = []
    for name in tensors:
        rule, fields = _rule_for(name, rules)
        if rule is None:
            problems.append(f"no place for: {name} {list(tensors[name].shape)}")
        elif isinstance(rule, Computed | Drop):
            result.reasons[name] = rule.reason
            (result.aside if isinstance(rule, Drop) else result.computed)[name] = tensors[name]
        elif isinstance(rule, Merge):
            names = [_fill(part, fields) for part in rule.theirs]
            missing = [part for part in names if part not in tensors]
            problems += [f"missing beside {name}: {part}" for part in missing]
            if not missing and name == names[0]:
                _merge({part: tensors[part] for part in names}, rule, _fill(rule.ours, fields), result.ours, problems)
        elif isinstance(rule, Split):
            _split(tensors[name], name, rule, fields, result.ours, problems)
        elif isinstance(rule, Change):
            try:
                result.ours[_fill(rule.ours, fields)] = rule.there(tensors[name])
            except (RuntimeError, IndexError, ValueError) as error:
                problems.append(f"{name} {list(tensors[name].shape)} has not the axes that it should have ({error})")
        else:
            result.ours[_fill(rule.ours, fields)] = tensors[name]
    if problems:
        raise CheckpointError(_listed("the file does not fit the rules of its family", problems))
    return result


def names_of(ours: str, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """Their names of what one of our tensors is made of, for messages; () for one that no rule makes."""
    for rule in rules:
        if isinstance(rule, Computed | Drop):
            continue
        for pattern in (rule.ours,) if isinstance(rule.ours, str) else rule.ours:
            fields = _match(pattern, ours)
            if fields is None:
                continue
            names = tuple(_fill(p, fields) for p in ((rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs))
            if all(_rule_for(name, rules)[0] is rule for name in names):
                return names
    return ()


def to_theirs(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """The way back: our tensors under their names. CheckpointError lists every name that no rule can send back."""
    theirs: dict[str, Tensor] = {}
    problems: list[str] = []
    for name in tensors:
        for rule in rules:
            if isinstance(rule, Computed | Drop):
                continue
            if isinstance(rule, Split):
                if (fields := _match(rule.ours[0], name)) is not None:
                    parts = [tensors[_fill(part, fields)] for part in rule.ours]
                    theirs[_fill(rule.theirs, fields)] = torch.cat(parts, rule.dim)
                    break
                if any(_match(part, name) is not None for part in rule.ours[1:]):
                    break
            elif (fields := _match(rule.ours, name)) is not None:
                if isinstance(rule, Merge):
                    pieces = tensors[name].chunk(len(rule.theirs), rule.dim)
                    theirs |= {_fill(p, fields): part.contiguous() for p, part in zip(rule.theirs, pieces, strict=True)}
                else:
                    theirs[_fill(rule.theirs, fields)] = (
                        rule.back(tensors[name]) if isinstance(rule, Change) else tensors[name]
                    )
                break
        else:
            problems.append(f"no place for: {name} {list(tensors[name].shape)}")
    if problems:
        raise CheckpointError(_listed("the model does not fit the rules of that family", problems))
    return theirs


def _merge(parts: Mapping[str, Tensor], rule: Merge, name: str, ours: dict[str, Tensor], problems: list[str]) -> None:
    try:
        ours[name] = torch.cat(list(parts.values()), rule.dim)
    except (RuntimeError, IndexError) as error:
        shown = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
        problems.append(f"{shown} cannot be joined ({error})")


def _split(
    tensor: Tensor, name: str, rule: Split, fields: dict[str, str], ours: dict[str, Tensor], problems: list[str]
) -> None:
    count = len(rule.ours)
    if tensor.ndim <= rule.dim or tensor.shape[rule.dim] % count:
        problems.append(f"{name} {list(tensor.shape)} cannot be cut into {count} equal parts")
        return
    for part, piece in zip(rule.ours, tensor.chunk(count, rule.dim), strict=True):
        ours[_fill(part, fields)] = piece.contiguous()


def _rule_for(name: str, rules: tuple[Rule, ...]) -> tuple[Rule | None, dict[str, str]]:
    for rule in rules:
        for pattern in (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs:
            if (fields := _match(pattern, name)) is not None:
                return rule, fields
    return None, {}


def _match(pattern: str, name: str) -> dict[str, str] | None:
    found = _compiled(pattern).fullmatch(name)
    return None if found is None else found.groupdict()


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts, last, seen = [], 0, set()
    for field in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[last : field.start()]))
        key, many = field.groups()
        again = key in seen
        parts.append(f"(?P={key})" if again else f"(?P<{key}>{'.+' if many else '[^.]+'})")
        seen.add(key)
        last = field.end()
    return re.compile("".join([*parts, re.escape(pattern[last:])]))


def _fill(pattern: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda field: fields[field.group(1)], pattern)


def _listed(what: str, problems: list[str], most: int = 20) -> str:
    more = f"\n  - and {len(problems) - most} more" if len(problems) > most else ""
    return f"{what} ({len(problems)} problems):\n  - " + "\n  - ".join(problems[:most]) + more
