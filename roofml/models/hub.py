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
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import quote

from roofml.models.hub_http import LONGEST_S, Answer, check_endpoint, get, within
from roofml.util.errors import InputError, because
from roofml.util.outside_text import for_line
from roofml.util.package_data import data_folder
from roofml.util.reading import as_object, as_text, is_there, parse_json, read_bytes, read_json_object
from roofml.util.writing import locked, write_files

CONFIG, QUANT_CONFIG, PROVENANCE = "config.json", "hf_quant_config.json", "provenance.json"
MAX_BYTES = 4_000_000
"""Size above which a file cannot be a config, bytes."""
MOST_BYTES_OF_A_LISTING = 16_000_000
"""Most bytes of what the Hub says about a repository: a hundred for each of its files, bytes."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"[^\s/\x00-\x20\x7f][^\s\x00-\x20\x7f]{0,199}")


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
        raise InputError(f"{repo[:300]!r}: expected a Hub repository as organization/model")
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"{repo}: {revision[:300]!r}: expected a branch, tag or commit")
    name = repo.rsplit("/", 1)[-1].lower()
    if not NAME.fullmatch(name):
        raise InputError(f"{repo!r}: {name!r} cannot be the name of a folder")
    target = (folder or data_folder("model_configs")) / name
    held = _held(target, name)
    _check_same_repository(target, held, repo)
    if held is not None and (revision is None or revision == held.revision):
        return held
    files, commit, canonical, source = _fetch(repo, revision, cache_dir)
    config = _json(f"{repo}: {CONFIG}", files[CONFIG])
    if not isinstance(config.get("architectures"), list):
        raise InputError(f"{repo}: its config.json names no architectures: not the config of a language model")
    if QUANT_CONFIG in files:
        _json(f"{repo}: {QUANT_CONFIG}", files[QUANT_CONFIG])
    hashes = {file: hashlib.sha256(raw).hexdigest() for file, raw in sorted(files.items())}
    provenance = {"hf_repo": canonical, "revision": commit, "files": hashes}
    _keep(target, canonical, {**files, PROVENANCE: (json.dumps(provenance, indent=2) + "\n").encode()})
    return Pulled(name, target, canonical, commit, hashes, source)


def _check_same_repository(target: Path, held: Pulled | None, repo: str) -> None:
    if held is not None and held.repo.lower() != repo.lower():
        raise InputError(f"{target} holds the config of {held.repo}: move it away to pull {repo}")


def _keep(target: Path, repo: str, files: Mapping[str, bytes]) -> None:
    """Write the files of a repository into its folder, all or none. Of two pulls at once the second waits."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {because(error)}") from None
    try:
        with locked(target / PROVENANCE):
            _check_same_repository(target, _held(target, target.name), repo)
            write_files({target / file: raw for file, raw in files.items()}, in_place=True)
            for stale in {CONFIG, QUANT_CONFIG} - set(files):
                (target / stale).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {because(error)}") from None
    finally:
        with suppress(OSError):  # a folder that nothing could be written into
            target.rmdir()


def _held(target: Path, name: str) -> Pulled | None:
    """The config that was pulled into `target` before; None if there is none or a file has changed since."""
    try:
        provenance = read_json_object(target / PROVENANCE)
        hashes = cast("dict[str, str]", provenance["files"])
        repo, revision = str(provenance["hf_repo"]), str(provenance["revision"])
        there = {file for file in (CONFIG, QUANT_CONFIG) if is_there(target / file)}
        if there != set(hashes) or not REPOSITORY.fullmatch(repo) or not COMMIT.fullmatch(revision):
            return None
        for file, digest in hashes.items():
            if hashlib.sha256(read_bytes(target / file)).hexdigest() != digest:
                return None
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    return Pulled(name, target, repo, revision, dict(hashes), "disk") if CONFIG in hashes else None


def _json(source: str, raw: bytes) -> dict[str, Any]:
    return as_object(parse_json(as_text(raw, source), source), source)


def _fetch(repo: str, revision: str | None, cache_dir: Path | None) -> tuple[dict[str, bytes], str, str, str]:
    """The files, the commit, the repository's canonical name, and the source: hub or cache."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    # OSError, and the base error of whatever HTTP library this version of the client uses.
    transport = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    endpoint = check_endpoint(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    give_up_at = time.monotonic() + LONGEST_S
    try:
        return (*within(LONGEST_S, lambda: _download(endpoint, repo, revision, give_up_at)), "hub")
    except InputError:
        raise
    except Exception as error:  # a hostile answer makes an HTTP library raise whatever it has
        reason = for_line(str(error))[:200] or type(error).__name__
        if not isinstance(error, transport):
            raise InputError(f"{repo}: the Hub's answer cannot be read: {type(error).__name__}: {reason}") from None
    try:
        return (*_from_cache(repo, revision, cache_dir), repo, "cache")
    except FileNotFoundError:
        raise InputError(f"{repo}: the Hub cannot be reached and no copy is at hand: {reason}") from None


def _download(endpoint: str, repo: str, revision: str | None, give_up_at: float) -> tuple[dict[str, bytes], str, str]:
    """The files, the commit that the revision stands for, and the repository's canonical name."""
    url = f"{endpoint}/api/models/{repo}" + ("" if revision is None else f"/revision/{quote(revision, safe='')}")
    answer = get(url, repo, MOST_BYTES_OF_A_LISTING, give_up_at)
    if answer.status != 200:
        _explain(repo, revision, answer)
    name, commit, present = _listing(repo, answer.body)
    if name.lower() != repo.lower():
        raise InputError(f"{repo}: renamed to {name} on the Hub: pull that")
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        raise InputError(f"{repo}: the Hub answers with commit {commit}, asked for {revision}")
    if CONFIG not in present:
        raise InputError(f"{name}: no config.json at {commit[:12]}: not a repository that transformers loads")
    files: dict[str, bytes] = {}
    for file in (CONFIG, QUANT_CONFIG):
        if file in present:
            what = f"{repo}: {file}"
            answer = get(f"{endpoint}/{name}/resolve/{commit}/{file}", what, MAX_BYTES, give_up_at)
            if answer.status != 200:
                _explain(repo, revision, answer)
            if answer.commits != frozenset({commit}):
                said = ", ".join(sorted(answer.commits)) or "a commit that it does not name"
                raise InputError(f"{what}: the Hub sends that of {for_line(said)[:100]}, asked for {commit}")
            files[file] = answer.body
    return files, commit, name


def _listing(repo: str, body: bytes) -> tuple[str, str, set[str]]:
    """The repository's name, the commit and the names of its files, from what the Hub says about it."""
    source = f"{repo}: the Hub's answer"
    about = _json(source, body)
    name, commit, siblings = about.get("id"), about.get("sha"), about.get("siblings")
    if not isinstance(name, str) or not REPOSITORY.fullmatch(name):
        raise InputError(f"{source}: id: expected a repository, found {str(name)[:100]!r}")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise InputError(f"{repo}: the Hub names no commit (found {str(commit)[:100]!r})")
    if not isinstance(siblings, list):
        raise InputError(f"{source}: siblings: expected the list of its files")
    entries = [cast("dict[str, Any]", entry) for entry in cast("list[object]", siblings) if isinstance(entry, dict)]
    return name, commit, {str(entry.get("rfilename")) for entry in entries}


def _from_cache(repo: str, revision: str | None, cache_dir: Path | None) -> tuple[dict[str, bytes], str]:
    """The files and the commit, from the client's cache. Raises FileNotFoundError if it has no config."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    files: dict[str, bytes] = {}
    commits: set[str] = set()
    for file in (CONFIG, QUANT_CONFIG):
        try:
            path = try_to_load_from_cache(repo, file, revision=revision, cache_dir=cache_dir)
        except HFValidationError as error:
            raise InputError(f"{repo}: not a valid repository name: {for_line(str(error))[:200]}") from None
        if isinstance(path, str):
            files[file] = read_bytes(Path(path), MAX_BYTES)
            commits.add(Path(path).parent.name)
    if CONFIG not in files:
        raise FileNotFoundError(repo)
    commit = commits.pop()
    if commits or not COMMIT.fullmatch(commit):
        raise InputError(f"{repo}: the client's cache names no one commit (found {commit[:100]!r})")
    return files, commit


def _explain(repo: str, revision: str | None, answer: Answer) -> NoReturn:
    """Turn an answer that is no success into one line that says what to do."""
    token = "the HF_TOKEN in use was not enough" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
    if answer.error_code == "GatedRepo":
        reason = f"gated: accept its terms at https://huggingface.co/{repo}, then {token}"
    elif answer.error_code == "RevisionNotFound":
        reason = f"no revision {revision!r}"
    elif answer.error_code == "EntryNotFound":
        reason = "no config.json"
    elif answer.error_code == "RepoNotFound" or answer.status == 401:
        reason = f"no such repository on the Hub, or a private one ({token})"
    else:
        reason = f"the Hub answered with status {answer.status}"
    raise InputError(f"{repo}: {reason}")
