"""A text tower by the name of its pretrained weights, found offline."""

from __future__ import annotations

from clapkit.text.locate import find_text_model
from clapkit.towers.hf import TransformersText


def pretrained_text(name: str = "all-MiniLM-L6-v2", pooling: str = "mean", max_tokens: int = 128) -> TransformersText:
    """The transformers encoder in the folder that `find_text_model(name)` finds, with its weights and tokenizer.

    A saved model does not refer to this function: it holds the encoder's configuration, weights and tokenizer itself.
    """
    return TransformersText.from_folder(find_text_model(name), pooling=pooling, max_tokens=max_tokens)
