"""Trees and tables as the text of a file, with what a strict writer would never write."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from .mutation import Rows, Tree


def as_json(tree: Tree) -> bytes:
    """JSON, NaN and Infinity included; surrogates are escaped."""
    return json.dumps(tree, indent=1, default=str).encode()


def as_yaml(tree: Tree) -> bytes:
    """YAML: block style outside, JSON's style inside, where strings are in quotes and numbers are not."""
    if not isinstance(tree, dict) or not tree:
        return (_flow(tree) + "\n").encode("utf-8", "surrogatepass")
    lines = [f"{_key(key)}: {_flow(value)}\n" for key, value in cast("dict[Any, Tree]", tree).items()]
    return "".join(lines).encode("utf-8", "surrogatepass")


def _key(key: Any) -> str:
    text = str(key)
    return text if text.isidentifier() else json.dumps(text)


def _flow(value: Tree) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)}: {_flow(v)}" for k, v in cast("dict[Any, Tree]", value).items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in cast("list[Tree]", value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def as_csv(rows: Rows) -> bytes:
    """CSV with quotes only where they are needed, and not always then."""
    lines = [",".join(f'"{cell}"' if "," in cell or "\n" in cell else cell for cell in row) for row in rows]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
