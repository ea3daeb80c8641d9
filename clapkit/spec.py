"""Parts named before they are built, and the JSON that rebuilds them exactly.

Two kinds of part exist. Parts with weights are classes (usually `nn.Module`s) described by a `Spec`, which checks the
parameter names against the signature at once. Parts without weights are frozen dataclasses: the constructor is the
configuration. `to_json` and `from_json` write and read both; a file may name only parts inside `clapkit.` unless the
caller trusts other packages by name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clapkit.errors import SpecError, nearest_name

_PART = "part"  # the JSON key that holds "module:name" of a part
_KIND = "kind"  # the JSON key that tells a Spec from a built part


@dataclass(frozen=True)
class Spec:
    """A class or function and the keyword arguments it will be called with.

    Make one with `spec(HTSAT, width=96)`, change it with `derive`, build the part with `build()`.
    """

    target: str  # "package.module:Name"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", dict(self.arguments))

    def __hash__(self) -> int:
        # The values may be lists and dicts, which have no hash; equal Specs have equal names.
        return hash((self.target, frozenset(self.arguments)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"{self.target.rpartition(':')[2]}({inside})"

    def resolve(self) -> Any:
        """The class or function itself."""
        return _import_part(self.target)

    def build(self, **more: Any) -> Any:
        """Call the target with its arguments and `more` (which may not repeat one of them).

        SpecError where it cannot be called so: a width of 0, widths that do not fit each other.
        """
        target = self.resolve()
        _check_arguments(target, {**self.arguments, **more})
        try:
            return target(**self.arguments, **more)
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            given = f", given {more}" if more else ""
            raise SpecError(f"{self!r} cannot be built{given}: {type(error).__name__}: {error}") from error


def spec(target: Any, /, **arguments: Any) -> Spec:
    """Describe a part: `spec(ResNetTower, width=32)`. Raises SpecError for a parameter that does not exist."""
    _check_arguments(target, arguments)
    return Spec(part_name(target), arguments)


def derive(base: Spec, /, **arguments: Any) -> Spec:
    """A copy of `base` with some arguments replaced."""
    merged = {**base.arguments, **arguments}
    _check_arguments(base.resolve(), merged)
    return Spec(base.target, merged)


def with_defaults(part: Spec, /, *, leave: tuple[str, ...] = ()) -> Spec:
    """The same part with every default written out, Specs inside it too: what is saved must not follow our defaults.

    `leave` names parameters that are given when the part is built. Parameters that a class names in `ADDED_LATER` came
    after models had been saved: at their default they are not written, so that those models keep their identity.
    """
    target = part.resolve()
    leave = (*leave, *getattr(target, "ADDED_LATER", ()))
    parameters = inspect.signature(target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in leave}
    whole = {**defaults, **part.arguments}
    return Spec(part.target, {k: with_defaults(v, leave=leave) if isinstance(v, Spec) else v for k, v in whole.items()})


def part_name(target: Any) -> str:
    """`module:qualified_name` of a class or function at module level."""
    if "<" in target.__qualname__ or "." in target.__qualname__:
        raise SpecError(f"{target.__qualname__} is not at module level: move it there so that it can be named")
    return f"{target.__module__}:{target.__qualname__}"


def _import_part(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise SpecError(f"cannot import '{module}' of part '{name}': {error}") from error
    part = getattr(found, attribute, None)
    # A module also holds what it imports: a file that may name parts of clapkit must not reach importlib through it.
    if getattr(part, "__module__", None) != module or getattr(part, "__qualname__", None) != attribute:
        known = [k for k, v in vars(found).items() if getattr(v, "__module__", None) == module and k[0] != "_"]
        raise SpecError(f"'{module}' has no part '{attribute}'; {nearest_name(attribute, known)}")
    return part


def _check_arguments(target: Any, arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(target).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            label = getattr(target, "__name__", str(target))
            raise SpecError(f"{label} has no parameter '{name}'; {nearest_name(name, list(parameters))}")


def to_json(value: Any) -> Any:
    """Plain JSON data for a value made of Specs, frozen dataclasses, tuples, dicts, strings and numbers.

    A dataclass field with the metadata "omit_default" (added after files had been written) is left out at its default.
    """
    if isinstance(value, Spec):
        return {_PART: value.target, _KIND: "spec", **_named(value.arguments, value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if _is_written(f, value)}
        return {_PART: part_name(type(value)), **_named(fields, value)}
    if isinstance(value, Mapping):
        if _PART in value:
            raise SpecError(f"a mapping with the key '{_PART}' would be read back as a part: {value!r}")
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise SpecError(f"a value of type {type(value).__name__} cannot be written into a recipe or config: {value!r}")


def _is_written(field_: dataclasses.Field, value: Any) -> bool:
    return field_.init and not (
        field_.metadata.get("omit_default", False) and getattr(value, field_.name) == field_.default
    )


def _named(arguments: Mapping[str, Any], owner: Any) -> dict[str, Any]:
    for reserved in (_PART, _KIND):
        if reserved in arguments:
            raise SpecError(f"{owner!r} cannot be written: the name '{reserved}' is taken in the file, rename it")
    return {k: to_json(v) for k, v in arguments.items()}


def from_json(data: Any, *, trust: tuple[str, ...] = ()) -> Any:
    """Rebuild what `to_json` wrote. Lists come back as tuples.

    Only parts of the package `clapkit` are built; others need their top-level package named in `trust`, because
    importing a module runs its code.
    """
    if isinstance(data, list):
        return tuple(from_json(v, trust=trust) for v in data)
    if not isinstance(data, dict):
        return data
    if _PART not in data:
        return {k: from_json(v, trust=trust) for k, v in data.items()}
    name = data[_PART]
    if not isinstance(name, str) or ":" not in name:
        raise SpecError(f"a part is named 'module:Name', not {name!r}")
    package = name.partition(":")[0].partition(".")[0]
    if package != "clapkit" and package not in trust:
        raise SpecError(
            f"the file names the part '{name}' of package '{package}', which would run that package's code. "
            f"If you trust it, say so: trust=['{package}'] or --trust {package}"
        )
    arguments = {k: from_json(v, trust=trust) for k, v in data.items() if k not in (_PART, _KIND)}
    if data.get(_KIND) == "spec":
        return Spec(name, arguments)
    part = _import_part(name)
    if not dataclasses.is_dataclass(part):
        raise SpecError(f"'{name}' is not a configurable part (a frozen dataclass)")
    _check_arguments(part, arguments)
    return part(**arguments)  # type: ignore[operator]
