"""Repositories whose config is another's: re-uploads, and quantized copies with the precision their names tell.

`model_configs/aliases.yaml` has three mappings. `same`: repository -> folder. `quantized`: repository -> {config,
precision, kv_dtype}. `endings`: publisher -> {end of the name: precision}, for publishers whose names follow a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

from roofml.util.errors import InputError
from roofml.util.package_data import data_folder
from roofml.util.yaml_io import read_mapping


@dataclass(frozen=True)
class Alias:
    """Another name of a config."""

    config: str
    """Folder of `model_configs/`."""
    precision: str = ""
    """Of the weights, which replaces what the config says; empty: as the config says."""
    kv_dtype: str = ""
    """Of the KV cache; empty: as the config says."""


def alias_of(model: str) -> Alias | None:
    """What a repository, or the last part of its name where that is one's alone, stands for; None if nothing."""
    table, endings = _tables()
    asked = model.lower()
    if asked in table:
        return table[asked]
    publisher, _, name = asked.rpartition("/")
    for ending, precision in endings.get(publisher, {}).items():
        if name.endswith(ending):
            base = name.removesuffix(ending)
            return Alias(_unpublished(base, table) or base, precision)
    return None if publisher else _alone(name, table)


def _alone(name: str, table: Mapping[str, Alias]) -> Alias | None:
    """What the repositories with this last part all stand for."""
    named = {alias for repo, alias in table.items() if repo.rpartition("/")[2] == name}
    return named.pop() if len(named) == 1 else None


def _unpublished(name: str, table: Mapping[str, Alias]) -> str:
    """The folder of an unquantized model known under this last part; empty without one."""
    alias = _alone(name, table)
    return alias.config if alias is not None and not alias.precision else ""


def known_aliases() -> Mapping[str, Alias]:
    """Every repository of the table, in lower case."""
    return _tables()[0]


@cache
def _tables() -> tuple[dict[str, Alias], dict[str, dict[str, str]]]:
    path = data_folder("model_configs") / "aliases.yaml"
    tables = read_mapping(path)

    def section(name: str) -> dict[str, object]:
        value = tables.get(name)
        if not isinstance(value, dict):
            raise InputError(f"{path}: {name}: expected a mapping")
        return cast("dict[str, object]", value)

    aliases = {repo.lower(): Alias(str(folder)) for repo, folder in section("same").items()}
    for repo, said in section("quantized").items():
        if not isinstance(said, dict) or not {"config", "precision"} <= set(cast("dict[str, str]", said)):
            raise InputError(f"{path}: quantized: {repo}: expected config, precision and perhaps kv_dtype")
        aliases[repo.lower()] = Alias(**cast("dict[str, str]", said))
    endings: dict[str, dict[str, str]] = {}
    for publisher, rules in section("endings").items():
        if not isinstance(rules, dict):
            raise InputError(f"{path}: endings: {publisher}: expected a mapping of endings to precisions")
        given = {ending.lower(): str(precision) for ending, precision in cast("dict[str, object]", rules).items()}
        endings[publisher.lower()] = dict(sorted(given.items(), key=lambda rule: -len(rule[0])))
    return aliases, endings
