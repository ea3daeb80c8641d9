"""Text to token ids with the `tokenizer.json` of a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from clapkit.errors import TextTowerError

TOKENIZER_FILE = "tokenizer.json"
_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")


class TextTokenizer:
    """Tokens of a batch of texts, padded to the longest of them and cut at `max_tokens`.

    truncated_texts  how many texts were cut since this object was made; each lost its end
    pad_id           the id that fills short rows (the mask is False there); given, it replaces the tokenizer's own
    suffix           written behind every text before it is cut into tokens; a text that is too long loses it too

    MS-CLAP 2023 was trained with the suffix " <|endoftext|>" and the pad id of "!".
    Raises TextTowerError where the folder has no usable tokenizer.json, and for a pad id that is no token of it.
    """

    def __init__(
        self, folder: str | Path, *, max_tokens: int = 128, pad_id: int | None = None, suffix: str = ""
    ) -> None:
        self.folder = Path(folder)
        self.max_tokens = max_tokens
        self.suffix = suffix
        self.truncated_texts = 0
        path = self.folder / TOKENIZER_FILE
        if not path.is_file():
            raise TextTowerError(f"{self.folder} has no {TOKENIZER_FILE}, which says how text becomes tokens")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise TextTowerError(f"{path} cannot be read as a tokenizer: {error}") from error
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_tokens <= special:
            raise TextTowerError(f"max_tokens is {max_tokens}, but {special} of them frame each text: give more")
        if pad_id is not None and self._tokenizer.id_to_token(pad_id) is None:
            raise TextTowerError(f"pad_id={pad_id} is no token of {path}, which has {self.vocabulary_size}")
        self.pad_id = self._find_pad_id() if pad_id is None else pad_id
        # Files may ask for padding to a fixed length (MiniLM: 128), which costs time and changes nothing.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id, special tokens included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids_BL int64, mask_BL bool) of a list of texts; the mask is True at tokens, False at padding.

        An empty text keeps its framing tokens; where a tokenizer has none, one padding token stands for it and counts,
        so that no row is without tokens. Raises TextTowerError for a single string and for members that are not text.
        """
        _check_texts(texts)
        encodings = self._tokenizer.encode_batch([text + self.suffix for text in texts], add_special_tokens=True)
        self.truncated_texts += sum(1 for e in encodings if e.overflowing)
        rows = [e.ids or [self.pad_id] for e in encodings]
        longest = max((len(row) for row in rows), default=0)
        ids_BL = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        mask_BL = np.zeros((len(rows), longest), dtype=bool)
        for index, row in enumerate(rows):
            ids_BL[index, : len(row)] = row
            mask_BL[index, : len(row)] = True
        return ids_BL, mask_BL

    def save(self, folder: str | Path) -> Path:
        """Write the tokenizer.json from which the same tokenizer can be made again; returns its path.

        The suffix is no part of that file: the text tower keeps it.
        """
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        copy.no_truncation()  # max_tokens belongs to the reader
        copy.enable_padding(pad_id=self.pad_id, pad_token=copy.id_to_token(self.pad_id))
        path = Path(folder) / TOKENIZER_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        copy.save(str(path))
        return path

    def _find_pad_id(self) -> int:
        if self._tokenizer.padding:
            return self._tokenizer.padding["pad_id"]
        candidates = (_configured_pad_token(self.folder), *_PAD_TOKENS)
        ids = (self._tokenizer.token_to_id(token) for token in candidates if token)
        found = next((i for i in ids if i is not None), None)
        if found is None:
            raise TextTowerError(
                f"{self.folder / TOKENIZER_FILE} names no padding token and has none of {', '.join(_PAD_TOKENS)}: "
                'name it as "pad_token" in tokenizer_config.json'
            )
        return found


def write_byte_tokenizer(folder: str | Path) -> Path:
    """Write a tokenizer.json whose tokens are the 256 bytes of UTF-8 text, framed by two special tokens.

    Ids: 0 [PAD], 1 [CLS], 2 [SEP], then 256 bytes: 259 in all. It needs no training and reads any text, which is what
    tiny models and tests want. Returns the path.
    """
    special = ["[PAD]", "[CLS]", "[SEP]"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    path = Path(folder) / TOKENIZER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, (str, bytes)):
        raise TextTowerError(f"expected a list of texts, found one {type(texts).__name__}: write [{texts!r}]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTowerError(f"texts[{index}] is {type(text).__name__} ({text!r}), expected str")


def _configured_pad_token(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
    except (ValueError, AttributeError) as error:
        raise TextTowerError(f"{path} cannot be read: {error}") from error
    return token.get("content") if isinstance(token, dict) else token
