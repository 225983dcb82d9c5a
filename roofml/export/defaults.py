"""Writing coefficients into a user's `defaults.yaml` of BLIS without changing anything else in it.

BLIS parses that file strictly: an unknown key is fatal, and a wrong count or a negative number makes it panic. So the
coefficients are validated first, provenance goes into comments, and the result is parsed again before it is saved.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from roofml.blis.deployment import BlisCoefficients
from roofml.export.yaml_edit import Document, Node, line_end, line_number, line_start, parse
from roofml.util.errors import InputError
from roofml.util.files import write_atomically

SECTION = "trained_physics_coefficients"
TOP_LEVEL_KEYS = ("version", "defaults", "workloads", SECTION, "lora", "kv_offload_devices")
"""The keys that BLIS accepts at the top level of `defaults.yaml`."""
MARK = "# roofml:"
"""Our comment lines begin with this, so that the next export finds them."""
MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class ModelEntry:
    """A model's entry in `defaults`: the hardware that BLIS uses if a command line names none."""

    name: str
    """Name on BLIS's command line. BLIS looks it up in lower case."""
    gpu: str
    tensor_parallel: int
    hf_repo: str


@dataclass(frozen=True)
class Edit:
    """A change of a file that is not written yet."""

    path: Path
    before: str | None
    """None if the file does not exist."""
    after: str

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.after != self.before

    def diff(self) -> str:
        """Return the change as a unified diff, empty if nothing changes."""
        old = [] if self.before is None else self.before.splitlines(keepends=True)
        lines = difflib.unified_diff(old, self.after.splitlines(keepends=True), str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)

    def write(self, backup: bool = True) -> Path | None:
        """Write the change, whole or not at all. Returns the path of the backup, or None if none was needed."""
        if not self.changed:
            return None
        saved = None
        if backup and self.before is not None:
            saved = _free_name(self.path, self.before)
            write_atomically(saved, self.before)
        write_atomically(self.path.resolve() if self.path.exists() else self.path, self.after)
        return saved


def _free_name(path: Path, content: str) -> Path:
    """Return `<path>.bak`, or the first of `.bak2`, `.bak3` .. that does not overwrite another version."""
    number = 1
    while True:
        candidate = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not candidate.exists() or candidate.read_bytes() == content.encode():
            return candidate
        number += 1


def read_text(path: Path) -> str | None:
    """Return the text of `path` with its own line breaks, or None if the file does not exist.

    Raises InputError for a file that is too large, is not UTF-8 or cannot be read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def number(value: float) -> str:
    """Return a coefficient as the files have it: 10 significant digits, no exponent."""
    return np.format_float_positional(abs(value), precision=10, fractional=False, trim="-")


def edit_defaults(
    path: Path, coefficients: BlisCoefficients, model: ModelEntry | None = None, provenance: Sequence[str] = ()
) -> Edit:
    """Return the change that puts `coefficients` into the `defaults.yaml` at `path`, which may not exist yet.

    `provenance` becomes comment lines. The same call on the result changes nothing. Raises InputError for a file that
    BLIS would not read, and for one in which our lines cannot be edited alone, for example if an alias uses our values.
    """
    before = read_text(path)
    text = before or ""
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    text = text[len(bom) :]
    editor = _Editor(path, text)
    editor.set_section(coefficients, provenance)
    if model is not None:
        editor.set_model(model)
    after = bom + editor.text
    _check(path, text, editor.text, coefficients, model)
    return Edit(path, before, after)


class _Editor:
    """A text under edit. It is parsed again after every change, so that the nodes' spans are never stale."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.newline = "\r\n" if "\r\n" in text else "\n"

    def replace(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new.replace("\n", self.newline) + self.text[end:]

    def document(self) -> Document:
        document = parse(self.text, self.path)
        for key in document.root.keys if document.root else ():
            if key.value not in TOP_LEVEL_KEYS:
                raise self.fail(key, f"unknown key {key.value!r}, BLIS accepts {', '.join(TOP_LEVEL_KEYS)}")
        return document

    def fail(self, node: Node, problem: str) -> InputError:
        return InputError(f"{self.path}: line {line_number(self.text, node.start)}: {problem}")

    def check_unshared(self, root: Node, node: Node) -> None:
        """Raise InputError if an alias elsewhere uses `node`, so that rewriting it would change other values."""
        aliases = {other.value for other in root.walk() if other.kind == "alias"}
        for inner in node.walk():
            if inner.anchor in aliases:
                raise self.fail(inner, f"anchor &{inner.anchor} is used elsewhere; write those values out first")

    def append_section(self, block: str) -> None:
        document = self.document()
        end = document.end
        head = self.text[:end]
        gap = "" if not head or head.endswith("\n") else "\n"
        gap += "\n" if head.strip() and not head.endswith(("\n\n", "\n\r\n")) else ""
        self.replace(end, end, gap + block)

    def fill(self, root: Node, key: str, block: str) -> None:
        """Put a block below the line of a key that has no value or a written null."""
        value = cast("Node", root.get(key))
        if value.value:
            self.replace(value.start, value.end, "")
        end = line_end(self.text, root.key(key).end)
        gap = "" if self.text[:end].endswith("\n") else "\n"
        self.replace(end, end, gap + block)

    def set_section(self, coefficients: BlisCoefficients, provenance: Sequence[str]) -> None:
        lists = {"alpha_coeffs": coefficients.alphas, "beta_coeffs": coefficients.betas}
        root = self.document().root
        section = root.get(SECTION) if root else None
        rows = "".join(f"  {key}: {_flow(values)}\n" for key, values in lists.items())
        if root is None or section is None:
            self.append_section(f"{_comments(provenance)}{SECTION}:\n{rows}")
            return
        if section.kind == "alias":
            raise self.fail(section, f"{SECTION} is an alias; write it out first")
        if section.is_empty:
            self.fill(root, SECTION, rows)
        elif section.kind != "mapping":
            raise self.fail(section, f"{SECTION}: expected a mapping")
        else:
            for key in section.keys:
                if key.value not in lists:
                    raise self.fail(
                        key, f"{SECTION}: unknown key {key.value!r}, BLIS accepts alpha_coeffs, beta_coeffs"
                    )
            for key, values in lists.items():
                self.set_list(key, values)
        self.set_comments(provenance)

    def set_list(self, key: str, values: Sequence[float]) -> None:
        root = cast("Node", self.document().root)
        section = cast("Node", root.get(SECTION))
        node = section.get(key)
        if node is None:
            self.add_to(section, f"{key}: {_flow(values)}")
            return
        self.check_unshared(root, node)
        items = node.children if node.kind == "sequence" else []
        if len(items) == len(values) and all(item.kind == "scalar" for item in items):
            for item, value in reversed(list(zip(items, values, strict=True))):
                if not _same_number(item.value, value):
                    self.replace(item.start, item.end, number(value))
            return
        inside = re.findall(r"(?:^|\s)(#[^\r\n]*)", self.text[node.start : node.end])
        start = section.key(key).end + self.text[section.key(key).end :].index(":") + 1
        indent = " " * (section.key(key).start - line_start(self.text, section.key(key).start))
        trailing = self.text[start : node.start]
        kept = "".join(f"{indent}{comment}\n" for comment in (*re.findall(r"#[^\r\n]*", trailing), *inside))
        self.replace(start, node.end, f" {_flow(values)}")
        if kept:
            at = line_start(self.text, section.key(key).start)
            self.replace(at, at, kept)

    def add_to(self, mapping: Node, row: str) -> None:
        """Add one `key: value` at the end of a mapping, in the mapping's own style."""
        last = mapping.children[-1] if mapping.children else None
        if mapping.flow:
            end = mapping.end - 1 if last is None else max(last.end, mapping.keys[-1].end)
            self.replace(end, end, row if last is None else f", {row}")
            return
        indent = mapping.keys[0].start - line_start(self.text, mapping.keys[0].start)
        end = line_end(self.text, max(mapping.end - 1, 0))
        gap = "" if self.text[:end].endswith("\n") else "\n"
        self.replace(end, end, f"{gap}{' ' * indent}{row}\n")

    def set_comments(self, provenance: Sequence[str]) -> None:
        """Replace our comment lines directly above the section."""
        root = cast("Node", self.document().root)
        end = line_start(self.text, root.key(SECTION).start)
        start = end
        while start > 0 and self.text[line_start(self.text, start - 1) : start].startswith(MARK):
            start = line_start(self.text, start - 1)
        self.replace(start, end, _comments(provenance))

    def set_model(self, model: ModelEntry) -> None:
        name = model.name.lower()
        fields = {"GPU": model.gpu, "tensor_parallelism": str(model.tensor_parallel), "hf_repo": model.hf_repo}
        root = cast("Node", self.document().root)
        section = root.get("defaults")

        def block(indent: str) -> str:
            """Return the model's entry for a line that is indented already."""
            rows = [f"{indent}  {key}: {_plain(value)}\n" for key, value in fields.items()]
            return f"{_plain(name)}:\n{''.join(rows)}"

        if section is None:
            self.append_section(f"defaults:\n  {block('  ')}")
            return
        if section.is_empty:
            self.fill(root, "defaults", f"  {block('  ')}")
            return
        if section.kind != "mapping":
            raise self.fail(section, "defaults: expected a mapping")
        entry = section.get(name)
        if entry is None:
            if section.flow:
                inner = ", ".join(f"{key}: {_plain(value)}" for key, value in fields.items())
                self.add_to(section, f"{_plain(name)}: {{{inner}}}")
            else:
                indent = " " * (section.keys[0].start - line_start(self.text, section.keys[0].start))
                self.add_to(section, block(indent).rstrip("\n"))
            return
        if entry.kind != "mapping" or entry.get("<<") is not None:
            raise self.fail(entry, f"defaults.{name}: expected a mapping written out")
        for key, value in fields.items():
            root = cast("Node", self.document().root)
            entry = cast("Node", cast("Node", root.get("defaults")).get(name))
            node = entry.get(key)
            if node is None:
                self.add_to(entry, f"{key}: {_plain(value)}")
            elif node.kind != "scalar" or node.value != value:
                self.check_unshared(root, entry)
                self.replace(node.start, node.end, _plain(value))


def _flow(values: Sequence[float]) -> str:
    return f"[{', '.join(number(value) for value in values)}]"


def _plain(value: str) -> str:
    """Return a scalar that YAML reads as this string or number, quoted if it must be."""
    reserved = value.lower() in {"null", "true", "false", "yes", "no"}
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*", value) and not reserved:
        return value
    return json.dumps(value, ensure_ascii=False)


def _comments(provenance: Sequence[str]) -> str:
    lines = [line for text in provenance for line in text.splitlines()]
    return "".join(f"{MARK} {line}".rstrip() + "\n" for line in lines)


def _same_number(written: str, value: float) -> bool:
    try:
        return float(written) == float(number(value)) and not written.startswith("-")
    except ValueError:
        return False


def _check(path: Path, before: str, after: str, coefficients: BlisCoefficients, model: ModelEntry | None) -> None:
    """Raise InputError unless `after` holds the new values and everything else that `before` held."""

    def load(text: str) -> dict[str, Any]:
        return cast("dict[str, Any]", YAML(typ="safe", pure=True).load(text) or {})

    try:
        old, new = load(before), load(after)
    except YAMLError:
        raise InputError(f"{path}: cannot be edited in place; write {SECTION} out in block style first") from None
    section = new.pop(SECTION)
    old.pop(SECTION, None)
    expected_section = {
        "alpha_coeffs": [float(number(value)) for value in coefficients.alphas],
        "beta_coeffs": [float(number(value)) for value in coefficients.betas],
    }
    if model is not None:
        name = model.name.lower()
        entry = dict(new["defaults"].pop(name))
        expected_entry: dict[str, Any] = {**((old.get("defaults") or {}).pop(name, None) or {})}
        expected_entry |= {"GPU": model.gpu, "tensor_parallelism": model.tensor_parallel, "hf_repo": model.hf_repo}
        if entry != expected_entry:
            raise InputError(f"{path}: defaults.{name} cannot be edited in place; write the entry out first")
        if not new["defaults"] and not old.get("defaults"):
            new.pop("defaults")
            old.pop("defaults", None)
    if section != expected_section or old != new:
        raise InputError(f"{path}: {SECTION} cannot be edited in place; write the section out in block style first")
