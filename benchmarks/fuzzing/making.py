"""How the cases of a target are made and put where a reader finds them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, cast

from roofml.util.errors import InputError

from .mutation import Tree, mutate_bytes, mutate_rows, mutate_tree
from .rendering import as_csv, as_json, as_yaml
from .target import NonsenseError

PATH = Path("input")
"""Name of a document that is in no file."""

Case = dict[str, Any]
"""File name -> a tree (YAML or JSON), rows (CSV) or bytes."""


@cache
def work_folder() -> Path:
    """A folder for files that are read at once; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="roofml-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write(name: str, raw: bytes) -> Path:
    """Put a file where its reader finds it."""
    path = work_folder() / name
    path.write_bytes(raw)
    return path


def of_documents(documents: Callable[[], Sequence[Tree]]) -> Callable[[Random, tuple[Random, ...]], Tree]:
    """Cases made of one of the documents."""

    @cache
    def texts() -> list[str]:
        return [json.dumps(document) for document in documents()]

    @cache
    def donors() -> list[Tree]:
        return [json.loads(text) for text in texts()[:40]]

    def make(random: Random, steps: tuple[Random, ...]) -> Tree:
        tree: Tree = json.loads(random.choice(texts()))
        for step in steps:
            tree = mutate_tree(tree, step, donors())
        return tree

    return make


def of_bytes(texts: Callable[[], Sequence[bytes]]) -> Callable[[Random, tuple[Random, ...]], bytes]:
    """Cases made of one of the texts, byte by byte."""
    cached = cache(texts)

    def make(random: Random, steps: tuple[Random, ...]) -> bytes:
        raw = random.choice(cached())
        for step in steps:
            raw = mutate_bytes(raw, step)
        return raw

    return make


def one_file(value: Any) -> Mapping[str, bytes]:
    """An input as the one file to keep of it."""
    if isinstance(value, bytes):
        return {"input": value}
    return {"input.txt": repr(value).encode("utf-8", "surrogatepass")}


def need(right: bool, what: str) -> None:
    """Raise NonsenseError unless it is right."""
    if not right:
        raise NonsenseError(what)


def mapping_of(tree: Tree) -> dict[str, Any]:
    """As a parser hands it over: files that hold no mapping are refused there."""
    if not isinstance(tree, dict):
        raise InputError(f"{PATH}: expected a mapping")
    return cast("dict[str, Any]", tree)


def mutate_file(case: Case, name: str, random: Random, bytes_share: float = 0.3) -> None:
    """Change one of the files: what it says, or its bytes."""
    content = case[name]
    if not isinstance(content, bytes) and random.random() < bytes_share:
        content = rendered(name, content)
    if isinstance(content, bytes):
        case[name] = mutate_bytes(content, random)
    elif name.endswith(".csv"):
        case[name] = mutate_rows(content, random)
    else:
        case[name] = mutate_tree(content, random)


def rendered(name: str, content: Any) -> bytes:
    """A file's bytes."""
    if isinstance(content, bytes):
        return content
    return (
        as_csv(content) if name.endswith(".csv") else as_json(content) if name.endswith(".json") else as_yaml(content)
    )
