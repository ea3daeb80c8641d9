"""Models on the Hugging Face hub: fetched by name, and put there.

A name is "hf://owner/name", with "@revision" (a branch, tag or commit) and "/file" behind it where they are needed:
"hf://owner/name@v2/weights.pt". "owner/name" alone is one too where no such path exists here.

Only what a model needs is moved, in both directions: weights, settings, tokenizer, model card; never a program.
`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_TOKEN` and `HF_HUB_OFFLINE` are obeyed.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clapkit.checkpoints.known import KNOWN
from clapkit.checkpoints.own import OWN, find_own
from clapkit.errors import CheckpointError, MissingExtraError
from clapkit.text.locate import hub_cache

SCHEME = "hf://"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")
BESIDE = ("*.json", "*.yml", "*.yaml", "vocab.txt", "merges.txt", "*.model", "README.md", "LICENSE*")
FOLDERS = ("", "text/")
_TIMEOUT_S = 20.0
_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w][\w./ -]*))?")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class HubName:
    """A repository, the revision of it that is meant, and one of its files (or None for the model in it)."""

    repo: str
    revision: str = "main"
    file: str | None = None


def hub_name(name: str | os.PathLike) -> HubName | None:
    """What a name means on the hub, or None for one that is a path. CheckpointError for a broken "hf://..."."""
    text = name.as_posix() if isinstance(name, Path) else os.fspath(name)
    if text.startswith(SCHEME):
        found = _NAME.fullmatch(text.removeprefix(SCHEME).rstrip("/"))
        if found is None or ".." in text:
            raise CheckpointError(
                f"'{text}' names no model: expected hf://owner/name, or hf://owner/name@revision/file"
            )
        return HubName(found["repo"], found["revision"] or "main", found["file"])
    found = _NAME.fullmatch(text)
    if found is None or found["file"] or os.path.exists(text) or os.path.isdir(os.path.dirname(text)):
        return None
    return (
        None if Path(text).suffix in {w[1:] for w in WEIGHTS} else HubName(found["repo"], found["revision"] or "main")
    )


def locate(name: str | os.PathLike) -> Path:
    """The local path for what a user calls a model: a path, our own (`own.OWN`), a short name of `known.KNOWN`, or a
    name on the hub.

    A path that exists is meant before anything else; what is none of these comes back as the path it looks like.
    """
    text = os.fspath(name)
    if not os.path.exists(text):
        if text == OWN:
            return find_own()
        if text in KNOWN:
            return fetch(HubName(KNOWN[text].repository, file=KNOWN[text].file))
        if place := hub_name(name):
            return fetch(place)
    return Path(name)


def fetch(name: str | HubName, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder (or, where the name has one, the file) of a model on the hub, downloaded unless it is in the cache.

    Of a repository with safetensors only those are taken, not the same weights again as pickles.

    Raises CheckpointError that says what is missing: the repository, the revision, the file, a token, the network.
    MissingExtraError without huggingface_hub.
    """
    place = name if isinstance(name, HubName) else hub_name(name)
    if place is None:
        raise CheckpointError(f"'{name}' is no name on the hub: expected owner/name or hf://owner/name")
    place = place if revision is None else HubName(place.repo, revision, place.file)
    if any(os.environ.get(variable, "").lower() in ("1", "true", "yes", "on") for variable in _OFFLINE):
        return _from_cache(place, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")
    hub = _library("Fetching a model from the hub")
    api = hub.HfApi(endpoint=_endpoint(), token=token)
    try:
        with _explained(place.repo, f"revision '{place.revision}'"):
            # This question is asked once; those of a download are repeated for half a minute where nobody answers.
            known = api.repo_info(place.repo, revision=place.revision, timeout=_TIMEOUT_S).siblings or ()
            wanted = _wanted([file.rfilename for file in known], place)
            patterns = [glob.escape(file) for file in wanted]
            folder = hub.snapshot_download(
                place.repo,
                revision=place.revision,
                allow_patterns=patterns,
                cache_dir=hub_cache(),
                endpoint=_endpoint(),
                token=token,
            )
    except _Unreachable as error:
        return _from_cache(place, str(error))
    return Path(folder, place.file or "")


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    message: str = "Model",
    token: str | None = None,
) -> str:
    """Put a model folder on the hub, the repository made if it is not there; the address of the commit.

    Weights, settings, tokenizer and README.md go, nothing else. CheckpointError if the folder holds no weights, the
    token is missing or may not write, or the hub cannot be reached.
    """
    folder = Path(folder)
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    chosen = sorted(file for file in files if _fits(file, WEIGHTS) or _fits(file, BESIDE))
    if not any(_fits(file, WEIGHTS) for file in chosen):
        raise CheckpointError(f"'{folder}' is no model folder: it holds no weights ({', '.join(WEIGHTS)})")
    place = hub_name(repo_id if repo_id.startswith(SCHEME) else SCHEME + repo_id)
    if place is None or place.file:
        raise CheckpointError(f"'{repo_id}' is no repository: expected owner/name")
    hub = _library("Putting a model on the hub")
    api = hub.HfApi(endpoint=_endpoint(), token=token)
    try:
        with _explained(place.repo, "this token"):
            api.create_repo(place.repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=place.repo,
                folder_path=folder,
                allow_patterns=[glob.escape(file) for file in chosen],
                revision=revision,
                commit_message=message,
            )
    except _Unreachable as error:
        raise CheckpointError(f"'{place.repo}' cannot be put on the hub: {error}") from error
    return str(commit.commit_url)


class _Unreachable(Exception):
    """The hub does not answer; what is in the cache may still do."""


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", purpose) from None
    return huggingface_hub


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@contextmanager
def _explained(repo: str, what: str) -> Iterator[None]:
    """Errors of huggingface_hub as ours."""
    from huggingface_hub import errors

    advice = "check the name; a private or gated one needs a token (hf auth login, or HF_TOKEN)"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"'{repo}' is gated: accept its terms on its page, then give a token (HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no model '{repo}' on the hub that may be read here: {advice}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"'{repo}' has no {what}: name a branch, tag or commit of it") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise CheckpointError(f"the hub refuses '{repo}' to {what} (HTTP {status}): {advice}") from error
        raise _Unreachable(f"the hub answers with {_line(error)}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"'{repo}' is no name of a repository: {_line(error)}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the library under huggingface_hub has changed twice, and its errors with it
        if not isinstance(error, OSError | RuntimeError) and "http" not in type(error).__module__:
            raise
        raise _Unreachable(f"the hub cannot be reached ({type(error).__name__}: {_line(error)})") from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _fits(file: str, patterns: Sequence[str]) -> bool:
    folder, _, name = file.rpartition("/")
    return (f"{folder}/" if folder else "") in FOLDERS and any(fnmatch.fnmatchcase(name, p) for p in patterns)


def _wanted(files: Sequence[str], place: HubName) -> list[str]:
    """What to download: the named file and the settings beside it, or the model of the repository."""
    beside = [file for file in files if _fits(file, BESIDE)]
    if place.file:
        if place.file not in files or not any(fnmatch.fnmatchcase(place.file, p) for p in WEIGHTS):
            raise CheckpointError(f"'{place.repo}' has no checkpoint '{place.file}'; it holds {_shown(files)}")
        return [*beside, place.file]
    weights = [file for file in files if _fits(file, WEIGHTS)]
    if not weights:
        raise CheckpointError(f"'{place.repo}' holds no weights ({', '.join(WEIGHTS)}), but {_shown(files)}")
    safe = [file for file in weights if file.endswith(".safetensors")]
    bare = [file for file in weights if file not in safe and not file.endswith(".bin")]
    if not safe and len(bare) > 1:
        raise CheckpointError(
            f"'{place.repo}' holds {len(bare)} checkpoints: name one of them, as in "
            f"{SCHEME}{place.repo}/{bare[0]} (there are {_shown(bare)})"
        )
    return [*beside, *(safe or weights)]


def _shown(files: Sequence[str]) -> str:
    more = f" and {len(files) - 12} more" if len(files) > 12 else ""
    return (", ".join(files[:12]) or "nothing") + more


def _from_cache(place: HubName, reason: str) -> Path:
    """What an earlier download left. CheckpointError if that is nothing."""
    store = hub_cache() / f"models--{place.repo.replace('/', '--')}"
    named = store / "refs" / place.revision
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else place.revision
    found = store / "snapshots" / commit / (place.file or "")
    if found.is_file() or (found.is_dir() and not place.file and any(_fits(p.name, WEIGHTS) for p in found.iterdir())):
        return found
    wanted = place.repo if place.revision == "main" else f"{place.repo} --revision {place.revision}"
    raise CheckpointError(
        f"'{place.repo}' ({place.file or 'the model'}, revision '{place.revision}') is not in the Hugging Face cache "
        f"{hub_cache()}, and was not downloaded: {reason}. "
        f"Where there is a network, run  hf download {wanted}  or give the path of a local file."
    )
