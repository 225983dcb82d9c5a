"""The Hub repository of a model, where something says it: BLIS fetches what it does not find from there."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from roofml.models.aliases import alias_of
from roofml.models.hub import PROVENANCE
from roofml.models.spec import config_path, has_config
from roofml.util.errors import InputError
from roofml.util.reading import is_there, read_json_object

_REPOSITORY = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
"""What BLIS takes for one (validHFRepoPattern of cmd/hfconfig.go)."""


def hub_repository(model: str) -> str:
    """The repository ORG/NAME of `model`, as it was named or pulled; empty where nothing says it.

    A short name or a path tells of none: what `pull` wrote beside its config does.
    """
    if has_config(model):
        beside = config_path(model).with_name(PROVENANCE)
        if is_there(beside):
            with suppress(InputError):
                said = read_json_object(beside).get("hf_repo")
                if isinstance(said, str) and _REPOSITORY.fullmatch(said):
                    return said
    return model if _REPOSITORY.fullmatch(model) and not is_there(Path(model)) else ""


def checked_repository(given: str) -> str:
    """What the user says with --hf-repo. Raises InputError for what BLIS would not take for one."""
    if not _REPOSITORY.fullmatch(given):
        raise InputError(f"--hf-repo {given[:100]!r}: expected ORG/NAME, as the Hub has it")
    return given


def config_name(model: str) -> str:
    """The name under which `config_path` finds the config of `model`, by its own name or its alias's.

    Raises InputError where there is none.
    """
    alias = None if has_config(model) else alias_of(model)
    return model if alias is None else alias.config
