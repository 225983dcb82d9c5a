"""Pages made while the site is built, so that none is ever stale: an MkDocs hook, named in mkdocs.yml.

commands.md         from the command line's own help
python.md           the public names of `roofml/__init__.py`
reference/<room>.md each room of the package, module by module
contributing.md     CONTRIBUTING.md
and, where a page says `<!-- layers -->`, the picture of the layers from the table in tests/test_imports.py
"""

from __future__ import annotations

import ast
import html
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LAYERS_MARK = "<!-- layers -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the rooms in the navigation, below the Python interface."""
    rooms = [f"reference/{room}.md" for room in existing_rooms(root_of(config))]
    for entry in cast("list[Any]", config.nav or []):
        if "Python" in entry:
            entry["Python"] += rooms
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    root = root_of(config)
    pages = {
        "commands.md": commands_page(root),
        "python.md": python_page(root),
        "contributing.md": (root / "CONTRIBUTING.md").read_text("utf-8"),
        **{f"reference/{room}.md": room_page(root, room) for room in existing_rooms(root)},
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the picture of the layers where a page asks for it."""
    if LAYERS_MARK not in markdown:
        return markdown
    root = root_of(config)
    links: dict[str, str] = {}
    for room in existing_rooms(root):
        target = files.get_file_from_path(f"reference/{room}.md")
        if target is None:
            raise PluginError(f"{page.file.src_uri}: the layers link to reference/{room}.md, which is not there")
        links[room] = target.url_relative_to(page.file)
    return markdown.replace(LAYERS_MARK, layers_picture(root, links))


def root_of(config: MkDocsConfig) -> Path:
    """The folder of mkdocs.yml: the checkout."""
    return Path(config.config_file_path).resolve().parent


# Commands


def commands_page(root: Path) -> str:
    """Every command with its usage, arguments, options and defaults; hidden ones are left out."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # this checkout's commands, whatever is installed
    import typer
    import typer.main

    from roofml.cli.main import app

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        for child, found in getattr(command, "commands", {}).items():
            if hasattr(found, "commands"):
                yield from walk(f"{name} {child}", found)
            elif not found.hidden:
                yield f"{name} {child}", found

    found = list(walk("roofml", typer.main.get_command(app)))
    lines = [
        "# Commands",
        "",
        "Every command takes `--json` (one JSON document on stdout, nothing else) and `--quiet`, and exits with 0, with"
        " 2 for bad usage or input, or with 1 for any other failure. What the folder of a run does not say is given by"
        " flags; what neither says is an error and not a default.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`{name}`](#{anchor(name)}) | {escaped(first_sentence(one.help))} |" for name, one in found),
    ]
    for name, command in found:
        context = typer.Context(command, info_name=name, terminal_width=100)
        lines += ["", f"## {name} {{ #{anchor(name)} }}", "", escaped(command.help or "").strip(), ""]
        lines += ["```text", context.get_usage().removeprefix("Usage: ").strip(), "```"]
        for kind in ("argument", "option"):
            shown = [one for one in command.params if one.param_type_name == kind]
            records = [record for one in shown if (record := one.get_help_record(context))]  # None: a hidden one
            lines += parameter_table(kind, [parameter_row(*record) for record in records])
    return "\n".join(lines) + "\n"


def parameter_table(kind: str, rows: list[tuple[str, str, str]]) -> list[str]:
    """The lines of a table of arguments or options; without a column of defaults where none has one."""
    if not rows:
        return []
    shown = 3 if any(default for *_, default in rows) else 2
    lines = [(kind, "meaning", "default")[:shown], ("---",) * shown, *(row[:shown] for row in rows)]
    return ["", *(f"| {' | '.join(line)} |" for line in lines)]


def parameter_row(name: str, text: str) -> tuple[str, str, str]:
    """Name, meaning and default from what the help prints: `-o FILE`, `Where to.  [default: here; x>=1]`."""
    said = re.search(r"\s+\[([^\[]*)\]$", text)
    notes = said[1].split("; ") if said else []
    default = next((f"`{note.removeprefix('default: ')}`" for note in notes if note.startswith("default: ")), "")
    limits = [f"`{note}`" for note in notes if note != "required" and not note.startswith("default: ")]
    meaning = escaped(text[: said.start()] if said else text) + (f" ({', '.join(limits)})" if limits else "")
    return f"`{name}`", meaning, "required" if "required" in notes else default


# Python


def python_page(root: Path) -> str:
    """The package's docstring, then its public names, each where `_HOMES` says it lives."""
    path = root / "roofml" / "__init__.py"
    session = re.compile(r"^ *>>> .*(?:\n *\S.*)*", re.MULTILINE)  # Markdown would take >>> for a quotation
    about = session.sub(lambda found: f"```pycon\n{textwrap.dedent(found[0])}\n```", doc_of(path))
    homes = assigned(ast.parse(path.read_text("utf-8")), "_HOMES")
    lines = ["# The Python interface", "", about, ""]
    for name, module in homes.items():
        lines += block(f"{module}.{name}", show_root_full_path="false")
    return "\n".join(lines)


def room_page(root: Path, room: str) -> str:
    """One room: what it is, its modules, and every documented name in them."""
    paths = sorted((root / "roofml" / room).rglob("*.py"))
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    lines = [f"# {room}", "", *block(f"roofml.{room}", show_root_heading="false")]
    inner = {path: name for path, name in names.items() if name != f"roofml.{room}"}
    if inner:
        lines += ["| module | what it holds |", "|---|---|"]
        lines += [f"| [`{name}`][{name}] | {escaped(first_sentence(doc_of(path)))} |" for path, name in inner.items()]
        lines.append("")
    for name in inner.values():
        lines += block(name)
    return "\n".join(lines)


def block(name: str, **options: str) -> list[str]:
    """The lines with which mkdocstrings documents `name`."""
    given = [f"    options: {{{', '.join(f'{key}: {value}' for key, value in options.items())}}}"] if options else []
    return [f"::: {name}", *given, ""]


# The picture of the layers

WIDTH, LEFT, GAP, HEIGHT, STEP, LINE = 880, 44, 12, 76, 100, 15


def layers_picture(root: Path, links: Mapping[str, str]) -> str:
    """The layers as SVG, the lowest at the bottom; rooms that do not exist yet are dashed. site.css has the colours."""
    layers = assigned(ast.parse((root / "tests" / "test_imports.py").read_text("utf-8")), "LAYERS")
    if not layers:
        raise PluginError("tests/test_imports.py: LAYERS: expected a table of layers, a literal")
    tall = STEP * len(layers) - (STEP - HEIGHT)
    parts = [
        f'<figure class="layers"><svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="The rooms of roofml in'
        f' {len(layers)} layers; imports go down only" xmlns="http://www.w3.org/2000/svg">'
    ]
    for number, rooms in enumerate(layers, 1):
        y = STEP * (len(layers) - number)
        wide = (WIDTH - LEFT - 1 - GAP * (len(rooms) - 1)) / len(rooms)
        parts.append(f'<text class="number" x="{LEFT / 2 - 4}" y="{y + HEIGHT / 2 + 5}">{number}</text>')
        for place, room in enumerate(rooms):
            parts.append(room_box(root, room, LEFT + place * (wide + GAP), y, wide, links.get(room)))
        if number > 1:
            x, below = LEFT + (WIDTH - LEFT) / 2, y + HEIGHT
            parts.append(f'<path class="down" d="M{x} {below + 4}v12m-5 -5l5 5l5 -5"/>')
    return "".join([*parts, "</svg></figure>"])


def room_box(root: Path, room: str, x: float, y: float, wide: float, link: str | None) -> str:
    """One room as a box with its name and what its docstring says first."""
    package = root / "roofml" / room / "__init__.py"
    said = "not built yet" if link is None else first_sentence(doc_of(package)) if package.exists() else ""
    said = re.sub(r"^\w+: ", "", said).replace("`", "").replace("->", "→").rstrip(".")
    lines = textwrap.wrap(said, int((wide - 20) / 5.9), max_lines=3, placeholder=" …")
    top = y + (HEIGHT - LINE * len(lines)) / 2 + 5
    middle = f"{x + wide / 2:.1f}"
    text = "".join(
        f'<text x="{middle}" y="{top + LINE * (i + 1):.1f}">{html.escape(line)}</text>' for i, line in enumerate(lines)
    )
    box = f'<rect x="{x:.1f}" y="{y + 0.5}" width="{wide:.1f}" height="{HEIGHT - 1}" rx="6"/>'
    name = f'<text class="name" x="{middle}" y="{top:.1f}">{room}</text>'
    if link is None:
        return f'<g class="room planned">{box}{name}{text}</g>'
    return f'<a class="room" href="{html.escape(link)}">{box}{name}{text}</a>'


# Reading sources without importing them


def existing_rooms(root: Path) -> list[str]:
    """The folders of the package that hold modules, by name."""
    return sorted(path.parent.name for path in (root / "roofml").glob("*/__init__.py"))


def assigned(module: ast.Module, name: str) -> Any:
    """The literal that a module assigns to `name` at its top level; None where it does not."""
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return ast.literal_eval(node.value)
    return None


def doc_of(path: Path) -> str:
    """A module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?!]) (?=[A-Z`])", paragraph)[0]


def escaped(text: str) -> str:
    """Plain text as Markdown of a table's cell: nothing in it is markup but code between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_|\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "`".join(parts)


def anchor(name: str) -> str:
    """Where a command stands on the page: `roofml bench import` at #bench-import."""
    return "-".join(name.split()[1:])
