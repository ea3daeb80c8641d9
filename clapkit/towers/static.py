"""A text tower that is a table: one vector a token, a sentence is their mean.

Made by distilling a sentence encoder (`building.released.distil`; the idea is that of Model2Vec, and of the sentence
embeddings of Arora et al. 2017). It needs no transformers library, and a text costs microseconds. It cannot tell order:
"a dog barks, then a bell rings" and "a bell rings, then a dog barks" are one vector.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clapkit.errors import TextTowerError
from clapkit.nets.masked import masked_mean
from clapkit.nets.output import TowerOutput
from clapkit.spec import Spec, spec

TABLE_FILE = "table.safetensors"


class StaticText(nn.Module):
    """Token ids [B, L] and mask [B, L] (True at tokens) -> frames [B, L, width], summary [B, width].

    vocabulary  number of token ids
    width       numbers of a token
    max_tokens  longest input accepted

    A token is 8-bit integers times a step of its own: 30,522 x 256 take 7.9 MB. The table is no parameter: what learns
    in training is the head above it. Raises TextTowerError for a text that is too long.
    """

    table_VD: Tensor
    step_V: Tensor

    def __init__(self, *, vocabulary: int, width: int = 256, max_tokens: int = 128) -> None:
        super().__init__()
        self.vocabulary_size, self.width, self.max_tokens = vocabulary, width, max_tokens
        self.folder: Path | None = None  # of the tokenizer; None for one that was built
        self.register_buffer("table_VD", torch.zeros(vocabulary, width, dtype=torch.int8))
        self.register_buffer("step_V", torch.zeros(vocabulary))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TowerOutput:
        if ids_BL.shape[1] > self.max_tokens:
            raise TextTowerError(f"the texts are {ids_BL.shape[1]} tokens long, at most {self.max_tokens} are read")
        real_BL = mask_BL.bool()
        frames_BLD = self.table_VD[ids_BL].to(self.step_V.dtype) * self.step_V[ids_BL][..., None]
        frames_BLD = frames_BLD.masked_fill(~real_BL[..., None], 0.0)
        return TowerOutput(frames_BLD, real_BL, masked_mean(frames_BLD, real_BL))

    def place(self, table_VD: Tensor) -> None:
        """Take these vectors, each rounded to 255 steps of its own: at most half a step (max / 254) off."""
        if table_VD.shape != self.table_VD.shape:
            raise TextTowerError(f"a table {list(self.table_VD.shape)} is expected, this is {list(table_VD.shape)}")
        step_V = (table_VD.abs().amax(1) / 127).to(self.step_V)
        safe_V1 = step_V.clamp_min(torch.finfo(step_V.dtype).tiny)[:, None]
        self.table_VD = (table_VD.to(step_V) / safe_V1).round().clamp(-127, 127).to(torch.int8)
        self.step_V = step_V

    def spec(self) -> Spec:
        """What builds a tower that the table of this one fits."""
        return spec(type(self), vocabulary=self.vocabulary_size, width=self.width, max_tokens=self.max_tokens)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the table into a folder, where its tokenizer.json stands too, for `static_text`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({"table_VD": self.table_VD, "step_V": self.step_V}, Path(folder) / TABLE_FILE)


def static_text(folder: str, max_tokens: int = 128) -> StaticText:
    """The tower of a folder that `StaticText.save` wrote. A saved model holds the table itself, and not this name.

    TextTowerError where the folder has no table, or one of another form.
    """
    path = Path(folder) / TABLE_FILE
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TextTowerError(f"{path} cannot be read as the table of a static text tower: {error}") from error
    table, step = stored.get("table_VD"), stored.get("step_V")
    if table is None or step is None or table.ndim != 2 or step.shape != table.shape[:1] or table.dtype != torch.int8:
        held = {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in stored.items()}
        raise TextTowerError(f"{path} holds {held}, expected table_VD [V, D] of int8 and step_V [V]")
    tower = StaticText(vocabulary=len(table), width=table.shape[1], max_tokens=max_tokens)
    tower.table_VD, tower.step_V, tower.folder = table, step.float(), Path(folder)
    return tower.eval()


tiny = spec(StaticText, vocabulary=259, width=32)
