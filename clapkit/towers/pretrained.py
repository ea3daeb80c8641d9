"""Text towers on pretrained weights, found offline by their name: a whole encoder, or its word pieces alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from clapkit.errors import TextTowerError
from clapkit.nets.masked import masked_mean
from clapkit.nets.output import TowerOutput
from clapkit.nets.recurrent import Recurrent
from clapkit.spec import Spec, spec
from clapkit.text.locate import find_text_model
from clapkit.towers.hf import Pooling, TransformersText


def pretrained_text(
    name: str = "all-MiniLM-L6-v2", pooling: Pooling = "mean", max_tokens: int = 128
) -> TransformersText:
    """The transformers encoder in the folder that `find_text_model(name)` finds, with its weights and tokenizer.

    A saved model does not refer to this function: it holds the encoder's configuration, weights and tokenizer itself.
    """
    return TransformersText.from_folder(find_text_model(name), pooling=pooling, max_tokens=max_tokens)


class RecurrentText(nn.Module):
    """Token ids [B, L] and mask [B, L] (True at tokens) -> frames [B, L, in_width], summary [B, in_width + 2 hidden].

    vocabulary  number of token ids
    in_width    size of the vector of a token; these vectors are fixed
    hidden      size of the recurrent state, which learns (with `model.frozen_text` False)
    max_tokens  longest input accepted

    Frames are the vectors of the tokens behind a norm; the summary is their mean (which words) beside their course
    (`nets.recurrent.Recurrent`: in which order). A frozen sentence vector keeps little of the order of two events, and
    what it keeps does not carry over to other wordings (card 006). Padding stands at the end of a row and changes
    nothing. Raises TextTowerError for a text that is too long.
    """

    def __init__(
        self, *, vocabulary: int = 30522, in_width: int = 384, hidden: int = 256, max_tokens: int = 128
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.in_width, self.hidden, self.max_tokens = vocabulary, in_width, hidden, max_tokens
        self.folder: Path | None = None  # where its tokens and their vectors were read from
        self.embedding = nn.Embedding(vocabulary, in_width)
        self.embedding.requires_grad_(False)
        self.norm = nn.LayerNorm(in_width)
        self.course = Recurrent(in_width, hidden=hidden)
        self.width = in_width + self.course.width

    def spec(self) -> Spec:
        """What builds this architecture again, without the folder that its vectors came from."""
        sizes = {"vocabulary": self.vocabulary_size, "in_width": self.in_width, "hidden": self.hidden}
        return spec(type(self), **sizes, max_tokens=self.max_tokens)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TowerOutput:
        if ids_BL.shape[1] > self.max_tokens:
            raise TextTowerError(f"the texts are {ids_BL.shape[1]} tokens long, at most {self.max_tokens} are read")
        real_BL = mask_BL.bool()
        frames_BLD = self.norm(self.embedding(ids_BL)).masked_fill(~real_BL[..., None], 0.0)
        summary = torch.cat([masked_mean(frames_BLD, real_BL), self.course(frames_BLD, real_BL)], dim=1)
        return TowerOutput(frames_BLD, real_BL, summary)


def pretrained_words(name: str = "all-MiniLM-L6-v2", hidden: int = 256, max_tokens: int = 128) -> RecurrentText:
    """A reader of the word pieces of the encoder in the folder that `find_text_model(name)` finds; its network is new.

    A saved model does not refer to this function: it holds the vectors and the tokenizer itself.
    """
    folder = find_text_model(name)
    table_VD = TransformersText.from_folder(folder).encoder.get_input_embeddings().weight.detach()
    tower = RecurrentText(vocabulary=len(table_VD), in_width=table_VD.shape[1], hidden=hidden, max_tokens=max_tokens)
    with torch.no_grad():
        tower.embedding.weight.copy_(table_VD)
    tower.folder = folder
    return tower


tiny = spec(RecurrentText, vocabulary=259, in_width=32, hidden=16)
