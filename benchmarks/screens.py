"""What is on the screen after every command, at several widths, and whether it is fit to be seen.

    python benchmarks/screens.py [--folder SCREENS] [--columns 60 80 160]

Every command runs on made-up runs in a pseudo terminal, one of them in a folder whose name would clear the screen and
ring the bell. The screens are saved as text. A line that is wider than the screen, a cell cut off with "…", and a
control sequence of the name that survives make the exit status 1. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from made_up_folders import GPU, LARGE, write_run

HOSTILE = "evil\x1b[2J\x1b]0;owned\x07\u202etxt|<b>"
OF_OURS = re.compile(r"\x1b\[(?:\?25[lh]|[\d;]*[mKA])")
"""What rich writes for colours and for a line of progress."""
LONGEST_S = 180.0
TO_BE_COPIED = ("--model ", "run BLIS with: ", "+", "-")
"""Beginnings of command lines and of lines of a file, which the terminal itself breaks: they can be copied whole."""


@dataclass
class Screen:
    """A terminal that knows what rich writes: characters, line ends, and the sequences of OF_OURS."""

    columns: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    broken: set[int] = field(default_factory=set[int])
    """Rows that the terminal broke by itself, for they were too wide."""

    def write(self, text: str) -> None:
        """Show it."""
        while text:
            sequence = OF_OURS.match(text)
            if sequence:
                self._obey(sequence[0])
            elif text[0] == "\n":
                self._down()
            elif text[0] == "\r":
                self.column = 0
            else:
                self._put(text[0])
            text = text[sequence.end() if sequence else 1 :]

    def _obey(self, sequence: str) -> None:
        if sequence.endswith("K"):
            self.lines[self.row] = ""
        elif sequence.endswith("A"):
            self.row = max(0, self.row - int(sequence[2:-1] or 1))

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self.broken.add(self.row)
            self._down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def faults(self, raw: str) -> list[str]:
        """What is not fit to be seen."""
        found = [
            f"line {row + 1} is wider than {self.columns}: {self.lines[row]!r}"
            for row in sorted(self.broken)
            if row - 1 not in self.broken and not self._whole(row)
        ]
        found += [f"cut off: {line!r}" for line in self.lines if "…" in line]
        left = OF_OURS.sub("", raw)
        found += [
            f"control character {char!r}" for char in sorted(set(left)) if not char.isprintable() and char not in "\r\n"
        ]
        return found

    def _whole(self, row: int) -> bool:
        """Whether what begins here stays in one piece: a command line, or a text with a path longer than the screen."""
        text = self.lines[row]
        while row in self.broken:
            row += 1
            text += self.lines[row]
        return text.startswith(TO_BE_COPIED) or any(len(word) > self.columns for word in text.split())


def on_a_terminal(arguments: list[str], columns: int, folder: Path) -> tuple[int, str]:
    """Exit status of a command in a pseudo terminal of so many columns, and what it wrote."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "roofml.cli.start", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    raw, end = b"", time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.5)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # all is said
            break
        if not piece:
            break
        raw += piece
    os.close(ours)
    process.kill()
    return process.wait(), raw.decode("utf-8", "replace")


def command_lines(folder: Path) -> dict[str, list[str]]:
    """Name of a screen -> arguments. Those below use what those above have written."""
    quiet, evil, large = (str(folder / name) for name in ("20260217-quiet-llama-2-7b-tp1", HOSTILE, "large"))
    gpu, coeffs = ["--gpu", GPU], ["--coeffs", "coefficients.yaml"]
    methods = ["--method", "roofml", "--method", "naive-mean", "--method", "blackbox"]
    return {
        "help": ["--help"],
        "fit-help": ["fit", "--help"],
        "usage": ["fit", f"--{HOSTILE}"],
        "refusal": ["fit", str(folder / f"no{HOSTILE}")],
        "doctor": ["doctor", quiet, evil, large],
        "fit": ["fit", quiet, *gpu, "-o", "coefficients.yaml"],
        "fit-blis": ["fit", quiet, *gpu, "--target", "blis", "-o", "blis.yaml"],
        "evaluate": ["evaluate", quiet, evil, large, *gpu],
        "evaluate-temporal": ["evaluate", quiet, evil, *gpu, "--protocol", "temporal"],
        "evaluate-coeffs": ["evaluate", quiet, evil, *coeffs],
        "identify": ["identify", quiet, *gpu, "--no-profiles"],
        "replay": ["replay", evil, *coeffs],
        "replay-physics": ["replay", evil, *gpu],
        "predict": ["predict", "mixtral-8x7b-v0.1", *gpu, "--tp", "2", "--decode", "700x64", "--prefill", "16@560"],
        "predict-coeffs": ["predict", "llama-2-7b-hf", *gpu, *coeffs, "--decode", "700x8"],
        "inspect": ["inspect", "mixtral-8x7b-v0.1", *gpu, "--tp", "2"],
        "pool": ["pool", quiet, large, *gpu, "-o", "pool.yaml"],
        "demo": ["demo"],
        "export": ["export", "blis", "blis.yaml", "-o", "."],
        "export-derive": ["export", "blis", "--derive", "llama-2-7b-hf", *gpu, "--flags"],
        "leaderboard": ["leaderboard", quiet, evil, large, *gpu, *methods, "--protocol", "temporal", "--workers", "2"],
    }


def main() -> None:
    """Run them all, and list what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("screens"))
    parser.add_argument("--columns", type=int, nargs="*", default=[60, 80, 160])
    parser.add_argument("--only", nargs="*", help="Names of screens.")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_run(folder / "20260217-quiet-llama-2-7b-tp1", seed=1)
        write_run(folder / HOSTILE, seed=2)
        write_run(folder / "large", LARGE, seed=3)
        for columns in options.columns:
            for name, arguments in command_lines(folder).items():
                if options.only and name not in options.only:
                    continue
                start = time.monotonic()
                status, raw = on_a_terminal(arguments, columns, folder)
                screen = Screen(columns)
                screen.write(raw)
                text = "\n".join(line.rstrip() for line in screen.lines)
                (options.folder / f"{name}-{columns}.txt").write_text(text, encoding="utf-8")
                faults = screen.faults(raw)
                if status != (2 if name in {"usage", "refusal"} else 0):
                    faults.insert(0, f"exit status {status}: {text[-300:]!r}")
                wrong += len(faults)
                print(
                    f"{columns:>4} {name:<18} {time.monotonic() - start:5.1f} s  {'; '.join(faults) or 'fine'}",
                    flush=True,
                )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
