"""Pulling a model's config from the Hugging Face Hub, pinned to a commit, offline first.

A pulled config lies in `model_configs/<last part of the repository, lower case>/`: `config.json` as the Hub serves it,
`hf_quant_config.json` if the publisher keeps the quantization there, and `provenance.json` with repository, commit and
SHA-256 of each file. A config that is there already is not fetched again unless a revision is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from roofml.util.errors import InputError
from roofml.util.files import data_folder, write_atomically

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

CONFIG, QUANT_CONFIG, PROVENANCE = "config.json", "hf_quant_config.json", "provenance.json"
MAX_BYTES = 4_000_000
"""Size above which a file cannot be a config, bytes."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pulled:
    """A config in `model_configs/`, and where it came from."""

    name: str
    folder: Path
    repo: str
    revision: str
    """Commit of the repository."""
    files: dict[str, str]
    """SHA-256 of each file."""
    source: str
    """hub, cache (the client's own, as the Hub could not be reached) or disk (pulled before)."""


def pull(
    repo: str, revision: str | None = None, *, folder: Path | None = None, cache_dir: Path | None = None
) -> Pulled:
    """Pull the config of `repo` at `revision`, a branch, tag or commit; None: any revision pulled before, else main.

    `folder` takes the place of `model_configs/`. The client takes its endpoint and token from HF_ENDPOINT and HF_TOKEN.
    Raises InputError for an impossible name, a repository that is missing, gated, renamed or without config, an
    unknown revision, a Hub that cannot be reached, and a folder that holds another repository's config.
    """
    if not REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InputError(f"{repo!r}: expected a Hub repository as organization/model")
    name = repo.rsplit("/", 1)[-1].lower()
    if not NAME.fullmatch(name):
        raise InputError(f"{repo!r}: {name!r} cannot be the name of a folder")
    target = (folder or data_folder("model_configs")) / name
    held = _held(target, name)
    if held is not None:
        if held.repo.lower() != repo.lower():
            raise InputError(f"{target} holds the config of {held.repo}: move it away to pull {repo}")
        if revision is None or revision == held.revision:
            return held
    files, commit, canonical, source = _fetch(repo, revision, cache_dir)
    config = _json(f"{repo}: {CONFIG}", files[CONFIG])
    if not isinstance(config.get("architectures"), list):
        raise InputError(f"{repo}: its config.json names no architectures: not the config of a language model")
    if QUANT_CONFIG in files:
        _json(f"{repo}: {QUANT_CONFIG}", files[QUANT_CONFIG])
    try:
        target.mkdir(parents=True, exist_ok=True)
        for stale in {CONFIG, QUANT_CONFIG, PROVENANCE} - set(files):
            (target / stale).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    for file, text in files.items():
        write_atomically(target / file, text)
    hashes = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in sorted(files.items())}
    provenance = {"hf_repo": canonical, "revision": commit, "files": hashes}
    write_atomically(target / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    return Pulled(name, target, canonical, commit, hashes, source)


def _held(target: Path, name: str) -> Pulled | None:
    """The config that was pulled into `target` before; None if there is none or a file has changed since."""
    try:
        provenance = json.loads((target / PROVENANCE).read_bytes())
        hashes = cast("dict[str, str]", provenance["files"])
        repo, revision = str(provenance["hf_repo"]), str(provenance["revision"])
        for file, digest in hashes.items():
            if file not in {CONFIG, QUANT_CONFIG}:
                return None
            if hashlib.sha256((target / file).read_bytes()).hexdigest() != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Pulled(name, target, repo, revision, dict(hashes), "disk") if CONFIG in hashes else None


def _json(source: str, text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{source}: expected a JSON object")
    return cast("dict[str, Any]", value)


def _fetch(repo: str, revision: str | None, cache_dir: Path | None) -> tuple[dict[str, str], str, str, str]:
    """Texts of the files, the commit, the repository's canonical name, and the source: hub or cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # OSError, and the base error of whatever HTTP library this version of the client uses.
    transport = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=20)
        if info.id.lower() != repo.lower():
            raise InputError(f"{repo}: renamed to {info.id} on the Hub: pull that")
        return (*_download(info, cache_dir, endpoint), info.id, "hub")
    except HfHubHTTPError as error:
        _explain(repo, revision, error)
    except HFValidationError as error:
        raise InputError(f"{repo}: not a valid repository name: {str(error).splitlines()[0]}") from None
    except transport as error:
        try:
            return (*_from_cache(repo, revision, cache_dir), repo, "cache")
        except FileNotFoundError:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{repo}: the Hub cannot be reached and no copy is at hand: {reason}") from None


def _download(info: ModelInfo, cache_dir: Path | None, endpoint: str | None) -> tuple[dict[str, str], str]:
    """Texts of the files, and the commit that the revision stands for."""
    from huggingface_hub import HfApi

    commit = info.sha
    if commit is None or not COMMIT.fullmatch(commit):
        raise InputError(f"{info.id}: the Hub names no commit (found {commit!r})")
    present = {sibling.rfilename for sibling in info.siblings or []}
    if CONFIG not in present:
        raise InputError(f"{info.id}: no config.json at {commit[:12]}: not a repository that transformers loads")
    texts: dict[str, str] = {}
    for file in (CONFIG, QUANT_CONFIG):
        if file in present:
            api = HfApi(endpoint=endpoint)
            path: object = api.hf_hub_download(info.id, file, revision=commit, cache_dir=cache_dir)
            texts[file] = _text(info.id, Path(str(path)))
    return texts, commit


def _from_cache(repo: str, revision: str | None, cache_dir: Path | None) -> tuple[dict[str, str], str]:
    """Texts of the files and the commit, from the client's cache. Raises FileNotFoundError if it has no config."""
    from huggingface_hub import try_to_load_from_cache

    texts: dict[str, str] = {}
    commit = ""
    for file in (CONFIG, QUANT_CONFIG):
        path = try_to_load_from_cache(repo, file, revision=revision, cache_dir=cache_dir)
        if isinstance(path, str):
            texts[file] = _text(repo, Path(path))
            commit = Path(path).parent.name
    if CONFIG not in texts:
        raise FileNotFoundError(repo)
    return texts, commit


def _text(repo: str, path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{repo}: {path.name}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{repo}: {path.name}: not UTF-8 text (byte {error.start})") from None


def _explain(repo: str, revision: str | None, error: Exception) -> NoReturn:
    """Turn an answer of the Hub into one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    token = "the HF_TOKEN in use was not enough" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        reason = f"gated: accept its terms at https://huggingface.co/{repo}, then {token}"
    elif isinstance(error, RepositoryNotFoundError):
        reason = f"no such repository on the Hub, or a private one ({token})"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"no revision {revision!r}"
    elif isinstance(error, EntryNotFoundError):
        reason = "no config.json"
    else:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else "unknown"
        reason = f"the Hub answered with status {status}"
    raise InputError(f"{repo}: {reason}") from None
