"""What a file is, by its first bytes: its name says nothing, and downloads are often not what they are called."""

from __future__ import annotations

import re
from pathlib import Path

from clapkit.errors import CheckpointError

_OTHERS = {
    b"\x1f\x8b": "a gzip archive: unpack it and give the checkpoint in it",
    b"BZh": "a bzip2 archive: unpack it and give the checkpoint in it",
    b"7z\xbc\xaf": "a 7z archive: unpack it and give the checkpoint in it",
    b"Rar!": "a rar archive: unpack it and give the checkpoint in it",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow): convert it to safetensors where it was made",
    b"GGUF": "a GGUF file: give the checkpoint that it was made from",
    b"\x93NUMPY": "a numpy array (.npy): save the tensors as safetensors",
    b"RIFF": "a sound file: give it to embed_audio, and a checkpoint here",
    b"OggS": "a sound file: give it to embed_audio, and a checkpoint here",
    b"fLaC": "a sound file: give it to embed_audio, and a checkpoint here",
    b"ID3": "a sound file: give it to embed_audio, and a checkpoint here",
}
_OLD_PICKLE = re.compile(rb"c[\w.]+\n[\w.]+\n|\(|\]|\}")


def kind_of(path: Path) -> str:
    """'zip', 'safetensors' or 'pickle'. CheckpointError says what the file is instead, and what to do."""
    if not path.is_file():
        raise CheckpointError(f"'{path}' is {'no regular file' if path.exists() else 'not there'}: name a checkpoint")
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if head[8:9] == b"{" and not head.startswith((b"{", b"[")):
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    if found := _impostor(head):
        raise CheckpointError(f"'{path}' is {found}")
    if _OLD_PICKLE.match(head):
        return "pickle"
    raise CheckpointError(
        f"'{path}' is no checkpoint: it begins with {head[:16]!r}, and a file of torch.save with PK or \\x80, "
        "one of safetensors with a length and {. If it was downloaded, get it again."
    )


def _impostor(head: bytes) -> str | None:
    if not head:
        return "empty (0 bytes): the download or copy failed, get the file again"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file that it points to: run 'git lfs pull' in its repository"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page saved under the name of a checkpoint: follow the download link on it, and log in if it asks"
    if text.startswith((b"{", b"[")):
        return f"JSON text ({head[:60]!r}...), a message or a configuration: give the file of weights"
    if head[257:262] == b"ustar":
        return "a tar archive (or a file of torch 0.1): unpack it and give the checkpoint in it"
    return next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
