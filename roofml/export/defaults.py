"""Writing coefficients into a user's `defaults.yaml` of BLIS without changing anything else in it.

BLIS parses that file strictly: an unknown key is fatal, and a wrong count or a negative number makes it panic. So the
coefficients are validated first, provenance goes into comments, and the result is parsed again before it is saved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from roofml.blis.deployment import BlisCoefficients
from roofml.export.edit import Edit, existing_text
from roofml.export.provenance import MARK, RUN_WITH, as_comments, check_same_deployment
from roofml.export.yaml_edit import Document, Node, line_end, line_number, line_start, parse
from roofml.util.errors import InputError
from roofml.util.outside_text import for_yaml

SECTION = "trained_physics_coefficients"
TOP_LEVEL_KEYS = ("version", "defaults", "workloads", SECTION, "lora", "kv_offload_devices")
"""The keys that BLIS accepts at the top level of `defaults.yaml`."""


@dataclass(frozen=True)
class ModelEntry:
    """A model's entry in `defaults`: the hardware that BLIS uses if a command line names none."""

    name: str
    """Name on BLIS's command line. BLIS looks it up in lower case."""
    gpu: str
    tensor_parallel: int
    hf_repo: str
    """Where BLIS fetches a config that it does not find; empty where nothing says it, and then not written."""

    @property
    def key(self) -> str:
        """The name as BLIS looks it up."""
        return self.name.lower()

    def fields(self) -> dict[str, tuple[str, str]]:
        """Return key -> (value, how it is written in YAML)."""
        return {
            "GPU": (self.gpu, for_yaml(self.gpu)),
            "tensor_parallelism": (str(self.tensor_parallel), str(self.tensor_parallel)),
            **({"hf_repo": (self.hf_repo, for_yaml(self.hf_repo))} if self.hf_repo else {}),
        }


def number(value: float) -> str:
    """Return a coefficient as the files have it: 10 significant digits, no exponent."""
    return np.format_float_positional(abs(value), precision=10, fractional=False, trim="-")


def edit_defaults(
    path: Path,
    coefficients: BlisCoefficients,
    model: ModelEntry | None = None,
    provenance: Sequence[str] = (),
    *,
    replace: bool = False,
) -> Edit:
    """Return the change that puts `coefficients` into the `defaults.yaml` at `path`, which may not exist yet.

    `provenance` becomes comment lines. The same call on the result changes nothing. Raises InputError for a file that
    BLIS would not read, for one in which our lines cannot be edited alone, for example if an alias uses our values, and
    unless `replace`, for one that holds our coefficients of another deployment than `provenance` names.
    """
    before = existing_text(path)
    text = before or ""
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    text = text[len(bom) :]
    editor = _Editor(path, text)
    if not replace and editor.has_coefficients:
        check_same_deployment(path, editor.comments(), provenance)
    if model is not None:
        editor.set_model(model)
    editor.set_section(coefficients, provenance)
    after = editor.result()
    if after != text:
        _check(path, editor.document, parse(after, path, len(after)), coefficients, model)
    return Edit(path, before, bom + after)


def other_models(path: Path, name: str) -> list[str]:
    """Return the models besides `name` that a `defaults.yaml` knows; none if it does not exist yet."""
    document = parse(existing_text(path) or "", path)
    models = document.root.get("defaults") if document.root else None
    return [] if models is None else [key.value for key in models.keys if key.value != name]


class _Editor:
    """A text and the changes of it, each of a span of the text as it was; sections that are new go to its end."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self.document = parse(text, path)
        self.root = self.document.root
        self.changes: list[tuple[int, int, str]] = []
        self.appended: dict[str, str] = {}
        for key in self.root.keys if self.root else ():
            if key.value not in TOP_LEVEL_KEYS:
                raise self.fail(key, f"unknown key {key.value[:80]!r}, BLIS accepts {', '.join(TOP_LEVEL_KEYS)}")

    @property
    def has_coefficients(self) -> bool:
        """Whether there are coefficients, whoever put them there."""
        section = self.root.get(SECTION) if self.root else None
        return section is not None and not section.is_empty

    def replace(self, start: int, end: int, new: str) -> None:
        self.changes.append((start, end, new))

    def result(self) -> str:
        """Return the changed text.

        Insertions at one place keep their order, so `set_model` comes first: what it adds to the end of `defaults`
        stands before the comments of a section that follows.
        """
        pieces: list[str] = []
        done = 0
        for start, end, new in sorted(self.changes, key=lambda change: change[:2]):
            pieces += [self.text[done:start], new.replace("\n", self.newline)]
            done = end
        head, tail = "".join(pieces) + self.text[done : self.document.end], self.text[self.document.end :]
        for block in (self.appended[key] for key in (SECTION, "defaults") if key in self.appended):
            gap = "" if not head or head.endswith("\n") else "\n"
            gap += "\n" if head.strip() and not head.endswith(("\n\n", "\n\r\n")) else ""
            head += (gap + block).replace("\n", self.newline)
        return head + tail

    def fail(self, node: Node, problem: str) -> InputError:
        return InputError(f"{self.path}: line {line_number(self.text, node.start)}: {problem}")

    def check_unshared(self, *nodes: Node) -> None:
        """Raise InputError if an alias elsewhere uses one of these nodes, so that another value would change too."""
        for node in nodes:
            if node.anchor in self.document.used:
                raise self.fail(node, f"anchor &{node.anchor} is used elsewhere; write those values out first")

    def fill(self, key: str, block: str) -> None:
        """Put a block below the line of a key that has no value or a written null."""
        root = cast("Node", self.root)
        value = cast("Node", root.get(key))
        self.check_unshared(root, value)
        if value.value:
            self.replace(value.start, value.end, "")
        end = line_end(self.text, root.key(key).end)
        gap = "" if self.text[:end].endswith("\n") else "\n"
        self.replace(end, end, gap + block)

    def section_line(self) -> int:
        """Return where the line of the section's key begins."""
        return line_start(self.text, cast("Node", self.root).key(SECTION).start)

    def comment_start(self) -> int:
        """Return where our comment lines directly above the section begin; without any, where the section begins."""
        start = self.section_line()
        while start > 0 and self.text[line_start(self.text, start - 1) : start].startswith(MARK):
            start = line_start(self.text, start - 1)
        return start

    def comments(self) -> list[str]:
        """Return our comment lines above the section; where it was moved away from them, those that say for what."""
        above = self.text[self.comment_start() : self.section_line()].splitlines()
        return above or [line for line in self.text.splitlines() if line.startswith(f"{MARK} {RUN_WITH}")]

    def set_section(self, coefficients: BlisCoefficients, provenance: Sequence[str]) -> None:
        lists = {"alpha_coeffs": coefficients.alphas, "beta_coeffs": coefficients.betas}
        rows = {key: f"{key}: {_flow(values)}" for key, values in lists.items()}
        block = "".join(f"  {row}\n" for row in rows.values())
        section = self.root.get(SECTION) if self.root else None
        if self.root is None or section is None:
            self.appended[SECTION] = f"{as_comments(provenance)}{SECTION}:\n{block}"
            return
        if section.kind == "alias":
            raise self.fail(section, f"{SECTION} is an alias; write it out first")
        if section.is_empty:
            self.fill(SECTION, block)
        elif section.kind != "mapping":
            raise self.fail(section, f"{SECTION}: expected a mapping")
        else:
            for key in section.keys:
                if key.value not in lists:
                    known = ", ".join(lists)
                    raise self.fail(key, f"{SECTION}: unknown key {key.value[:80]!r}, BLIS accepts {known}")
            self.check_unshared(self.root, section)
            for key, values in lists.items():
                self.set_list(section, key, values)
            self.add_to(section, [row for key, row in rows.items() if section.get(key) is None])
        self.replace(self.comment_start(), self.section_line(), as_comments(provenance))

    def set_list(self, section: Node, key: str, values: Sequence[float]) -> None:
        node = section.get(key)
        if node is None:
            return
        self.check_unshared(*node.walk())
        items = node.children if node.kind == "sequence" else []
        if len(items) == len(values) and all(item.kind == "scalar" for item in items):
            for item, value in zip(items, values, strict=True):
                if not _same_number(item, value):
                    self.replace(item.start, item.end, number(value))
            return
        inside = re.findall(r"(?:^|\s)(#[^\r\n]*)", self.text[node.start : node.end])
        name = section.key(key)
        start = name.end + self.text[name.end :].index(":") + 1
        indent = " " * (name.start - line_start(self.text, name.start))
        trailing = self.text[start : node.start]
        kept = "".join(f"{indent}{comment}\n" for comment in (*re.findall(r"#[^\r\n]*", trailing), *inside))
        self.replace(start, node.end, f" {_flow(values)}")
        if kept:
            at = line_start(self.text, name.start)
            # Ours stay directly above the section, where the next export looks for them.
            at = self.comment_start() if at == self.section_line() else at
            self.replace(at, at, kept)

    def add_to(self, mapping: Node, rows: Sequence[str]) -> None:
        """Add `key: value` rows at the end of a mapping, in the mapping's own style."""
        if not rows:
            return
        if mapping.flow:
            last = mapping.children[-1] if mapping.children else None
            end = mapping.end - 1 if last is None else max(last.end, mapping.keys[-1].end)
            self.replace(end, end, ("" if last is None else ", ") + ", ".join(rows))
            return
        indent = mapping.keys[0].start - line_start(self.text, mapping.keys[0].start)
        end = line_end(self.text, max(mapping.end - 1, 0))
        gap = "" if self.text[:end].endswith("\n") else "\n"
        self.replace(end, end, gap + "".join(f"{' ' * indent}{row}\n" for row in rows))

    def set_model(self, model: ModelEntry) -> None:
        section = self.root.get("defaults") if self.root else None
        if self.root is None or section is None:
            self.appended["defaults"] = f"defaults:\n  {_entry(model, '  ')}"
            return
        if section.is_empty:
            self.fill("defaults", f"  {_entry(model, '  ')}")
            return
        if section.kind != "mapping":
            raise self.fail(section, "defaults: expected a mapping")
        entry = section.get(model.key)
        if entry is None:
            self.check_unshared(self.root, section)
            if section.flow:
                inner = ", ".join(f"{key}: {written}" for key, (_, written) in model.fields().items())
                self.add_to(section, [f"{for_yaml(model.key)}: {{{inner}}}"])
            else:
                indent = " " * (section.keys[0].start - line_start(self.text, section.keys[0].start))
                self.add_to(section, [_entry(model, indent).rstrip("\n")])
            return
        if entry.kind != "mapping" or entry.get("<<") is not None:
            raise self.fail(entry, f"defaults.{model.key}: expected a mapping written out")
        missing: list[str] = []
        for key, (value, written) in model.fields().items():
            node = entry.get(key)
            if node is None:
                missing.append(f"{key}: {written}")
            elif not _says(node, value, written):
                self.check_unshared(self.root, section, entry, *node.walk())
                self.replace(node.start, node.end, written)
        if missing:
            self.check_unshared(self.root, section, entry)
            self.add_to(entry, missing)


def _entry(model: ModelEntry, indent: str) -> str:
    """Return the model's entry, for a line that is indented already."""
    rows = [f"{indent}  {key}: {written}\n" for key, (_, written) in model.fields().items()]
    return f"{for_yaml(model.key)}:\n{''.join(rows)}"


def _flow(values: Sequence[float]) -> str:
    return f"[{', '.join(number(value) for value in values)}]"


def _same_number(node: Node, value: float) -> bool:
    """Whether a node is a number that BLIS reads as this coefficient."""
    written = re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", node.value)
    is_number = node.kind == "scalar" and node.plain and node.tag is None
    return is_number and written is not None and float(node.value) == float(number(value))


def _says(node: Node, value: str, written: str) -> bool:
    """Whether a node is this text, or this number where it is written as one."""
    if node.kind != "scalar" or node.value != value or node.tag is not None:
        return False
    return node.plain if written.isdigit() else not (node.plain and written.startswith('"'))


def _check(
    path: Path, before: Document, after: Document, coefficients: BlisCoefficients, model: ModelEntry | None
) -> None:
    """Raise InputError unless `after` holds the new values and everything else that `before` held."""
    old, new = _sections(before), _sections(after)
    section = new.pop(SECTION, None)
    old.pop(SECTION, None)
    if section is None or not _holds(section, coefficients):
        raise InputError(f"{path}: {SECTION} cannot be edited in place; write the section out in block style first")
    if model is not None:
        defaults = new.pop("defaults", None)
        if defaults is None or not _holds_model(defaults, old.pop("defaults", None), model):
            raise InputError(f"{path}: defaults.{model.key} cannot be edited in place; write the entry out first")
    if {key: node.outline() for key, node in old.items()} != {key: node.outline() for key, node in new.items()}:
        raise InputError(f"{path}: cannot be edited in place; write {SECTION} out in block style first")


def _sections(document: Document) -> dict[str, Node]:
    root = document.root
    return {} if root is None else {key.value: node for key, node in zip(root.keys, root.children, strict=True)}


def _holds(section: Node, coefficients: BlisCoefficients) -> bool:
    for key, values in (("alpha_coeffs", coefficients.alphas), ("beta_coeffs", coefficients.betas)):
        node = section.get(key)
        items = node.children if node is not None and node.kind == "sequence" else []
        if len(items) != len(values) or not all(map(_same_number, items, values)):
            return False
    return len(section.keys) == 2


def _holds_model(new: Node, old: Node | None, model: ModelEntry) -> bool:
    """Whether `defaults` has the model's entry, its other fields as they were, and the other entries as they were."""

    def others(mapping: Node | None, but: Sequence[str]) -> list[tuple[object, object]]:
        pairs = () if mapping is None else zip(mapping.keys, mapping.children, strict=True)
        return [(key.outline(), node.outline()) for key, node in pairs if key.value not in but]

    entry = new.get(model.key)
    if entry is None or entry.kind != "mapping":
        return False
    for key, (value, written) in model.fields().items():
        node = entry.get(key)
        if node is None or not _says(node, value, written):
            return False
    held = old.get(model.key) if old is not None and old.kind == "mapping" else None
    same_fields = others(entry, tuple(model.fields())) == others(held, tuple(model.fields()))
    was = old if old is not None and old.kind == "mapping" else None
    return same_fields and others(new, (model.key,)) == others(was, (model.key,))
