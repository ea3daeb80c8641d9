"""What an importer is: it recognises a file by its tensors and says which model they are, and by which rules.

    file -> reading.read -> Foreign -> Importer.recognises, .plan -> Plan -> rules.to_ours -> DualEncoder

A new family is one file with one `Importer` and one row in `checkpoints/table.py`; the contract test runs over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clapkit.checkpoints.rules import Rule
from clapkit.errors import CheckpointError
from clapkit.spec import Spec

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Foreign:
    """A foreign file or folder, read.

    tensors    name -> tensor, out of its wrapper ({"state_dict": ...}, {"model": ...}) and without "module."
    config     what stands beside the tensors: config of the wrapper, config.json or yml of the folder; {} if none
    path       the file or folder
    variant    what the caller says about it (`clapkit.load(variant=...)`), for settings that the file lacks
    extras     wrapper entries that are no model ("optimizer", "epoch"...), by name
    """

    tensors: dict[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path()
    variant: str | None = None
    extras: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def count(self, pattern: str) -> int:
        """Blocks of a numbered list: 1 + the largest number at `{i}` of `pattern`, e.g. "layers.{i}.norm.weight".

        Any tensor of a block counts, so that a block that lacks the one of the pattern is missed, not cut off.
        CheckpointError for a number that the file cannot have counted up to.
        """
        before, _, _ = pattern.partition("{i}")
        numbers = (n[len(before) :].partition(".")[0] for n in self.tensors if n.startswith(before))
        last = max((int(number) for number in numbers if number.isdecimal() and number.isascii()), default=-1)
        if last > len(self.tensors) + 10:
            raise CheckpointError(
                f"'{before}{str(last)[:20]}' has a number far beyond the {len(self.tensors)} tensors of the file"
            )
        return last + 1


@dataclass(frozen=True)
class Plan:
    """What an importer makes of a file.

    model       Spec of the DualEncoder that the mapped tensors fill, every one of its tensors
    rules       first match wins; names of our side as in `DualEncoder.state_dict()`
    tokenizer   public name of the tokenizer that the text tower needs ("roberta-base"); None: there is no text tower
    pad_id      token id that fills short rows, from which `embed_tokens` makes a mask when none is given
    filterbank  name of the stored mel filter bank [n_fft // 2 + 1, bins] (used when it differs from ours), or None
    notes       settings that the file lacks and the value taken, and quirks that are on or off, one sentence each
    no_text     why `embed_text` cannot work and what to give (`text=...`), for files without a text tower
    constants   tensors of our model that the file lacks and that have one right value (the fixed scale of a score)
    """

    model: Spec
    rules: tuple[Rule, ...]
    tokenizer: str | None = None
    pad_id: int = 0
    filterbank: str | None = None
    notes: tuple[str, ...] = ()
    no_text: str | None = None
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Importer:
    """One family of checkpoints.

    family      short name: "laion", "msclap"...
    about       one line: which published files it reads
    recognises  by names and shapes, never by the name of the file
    plan        what the file is; raises CheckpointError for sizes that cannot be
    writes      (our tensors, their model Spec, what was kept aside when a file was read) -> whole content of a file or
                folder, for families with a way back; CheckpointError for a model that has no place in that layout;
                None: read only
    licence     of the published weights, where known
    takes_variant   whether `plan` asks the caller (`Foreign.variant`) for what a file does not say
    """

    family: str
    about: str
    recognises: Callable[[Shapes], bool]
    plan: Callable[[Foreign], Plan]
    writes: Callable[[Mapping[str, Tensor], Spec, Mapping[str, Tensor]], Any] | None = None
    licence: str = "unknown"
    takes_variant: bool = False
