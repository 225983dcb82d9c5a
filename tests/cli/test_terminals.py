"""What reaches a terminal: nothing that it would obey, no name or digit cut off; and what happens without one."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ok, roofml
from rich.console import Console
from runfolder import RunFolder, exp_config, header, requests

from roofml.util.display import Shown, Table
from roofml.util.outside_text import for_line
from roofml.validation.leaderboard.page import markdown

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2028\u2029]")
EVIL = "evil\x1b[2J\x1b]0;owned\x07\u202e\x9b31m"
NAMES = ("20260217-155451-llama-2-7b-tp1-codegen", "a name of several words", "queueing_per_running_us")
COLUMNS = ("run", "requests", "E2E %", "TTFT %", "TPOT %", "95 % interval", "decided by")
VALUES = ("1,500", "+0.12345", "-1234.5", "+33.21", "1,234 to 5,678", "the data")

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


def command(*arguments: object, **streams: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "roofml.cli.start", *map(str, arguments)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **streams}
    return subprocess.run(line, check=False, **given)  # pyright: ignore[reportArgumentType, reportCallIssue]


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """`roofml LINE`, with the redirections in it."""
    full = f'"{sys.executable}" -m roofml.cli.start {line}'
    return subprocess.run(["sh", "-c", full], capture_output=True, text=True, check=False, timeout=60)


def on_screen(table: Table, columns: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=columns, color_system=None).print(table.rich(screen=True))
    return text.getvalue().splitlines()


def on_terminal(columns: int, *arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status and what a command writes to a pseudo terminal of so many columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    given = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "roofml.cli.start", *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**given, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    raw = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        raw += piece
    os.close(ours)
    return process.wait(60), raw.decode()


def of_screen(raw: str) -> list[str]:
    """The lines, without colours and the lines of progress that were wiped."""
    plain = re.sub(r"\x1b\[(?:\?25[lh]|[\d;]*m)", "", raw.replace("\r\n", "\n"))
    return [re.split(r"\x1b\[(?:2K|1A)|\r", line)[-1] for line in plain.splitlines()]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 160])
@pytest.mark.parametrize("more", [0, 4])
def test_a_table_keeps_names_and_digits_at_every_width(columns: int, more: int) -> None:
    wide = Table("a title", (*COLUMNS, *COLUMNS[1 : 1 + more]), [(name, *VALUES, *VALUES[:more]) for name in NAMES])
    lines = on_screen(wide, columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "…" not in text
    for shown in (*NAMES, *COLUMNS[1:]):
        assert shown in text
    for value in VALUES:
        assert text.count(value) >= len(NAMES)


def test_a_name_that_is_longer_than_the_screen_is_folded() -> None:
    lines = on_screen(Table("", ("run", "value"), [("x" * 100, "1")]), 40)
    assert max(map(len, lines)) <= 40
    assert sum(line.count("x") for line in lines) == 100


@pytest.mark.parametrize("text", [EVIL, "two\nlines", "a\ttab", "\x00", "\ud800", "\u2028"])
def test_nothing_in_a_table_is_obeyed(text: str) -> None:
    table = Table(text, (text, text), [(text, text)], text)

    class One(Shown):
        def tables(self) -> list[Table]:
            return [table]

    for columns in (20, 200):
        shown = "\n".join(on_screen(table, columns)) + repr(One()) + One()._repr_html_()
        assert not CONTROL.search(shown)
        shown.encode()
    if "\n" in text:
        assert repr(One()).count("two\\nlines") >= 3, "a line break in a name is no row"


def test_a_notebook_shows_markup_as_it_is() -> None:
    assert "<script>" not in Table("<script>", ("<script>",), [("<script>",)]).html()


@pytest.fixture(scope="module")
def evil_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunFolder(rows=requests(60)).write(tmp_path_factory.mktemp("evil") / EVIL)


@needs_posix
@pytest.mark.parametrize("line", [["doctor"], ["evaluate", "--gpu", "H100"], ["replay", "--gpu", "H100"]], ids=" ".join)
def test_no_name_of_a_run_reaches_the_terminal_as_it_is(evil_folder: Path, line: list[str]) -> None:
    result = roofml(*line, evil_folder)
    assert result.status == 0, result.err
    assert "evil\\x1b[2J\\x1b]0;owned\\x07\\u202e\\x9b31m" in result.out
    assert not CONTROL.search(result.out + result.err)


@needs_posix
def test_json_holds_the_name_that_is_shown(evil_folder: Path) -> None:
    """A run is called by a name that can be printed and written, from the moment it is read."""
    assert ok("doctor", evil_folder, "--json").document["runs"][0]["run"] == for_line(EVIL)


@needs_posix
def test_no_unknown_key_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    for which in ("trace", "exp-config"):
        head, settings = header(), exp_config()
        (head if which == "trace" else settings)[EVIL] = EVIL
        result = roofml(
            "doctor", RunFolder(rows=requests(60), header=head, exp_config=settings).write(tmp_path / which)
        )
        assert not CONTROL.search(result.out + result.err)


@pytest.mark.parametrize(
    "line",
    [["doctor", EVIL], ["fit", f"--{EVIL}"], [EVIL], ["doctor", "x", "--tp", EVIL], ["predict", EVIL, "--gpu", EVIL],
     ["fit", "x", "--target", EVIL], ["replay", "x", "--coeffs", EVIL], ["leaderboard", "x", "--method", EVIL],
     ["leaderboard", "x", "--protocol", EVIL], ["export", EVIL], ["export", "blis", EVIL]],
    ids=lambda line: " ".join(line).replace(EVIL, "EVIL"),
)  # fmt: skip
def test_no_refusal_reaches_the_terminal_as_it_is(line: list[str]) -> None:
    result = roofml(*line)
    assert result.status == 2
    assert not CONTROL.search(result.err)


def test_a_line_break_in_an_argument_begins_no_line() -> None:
    assert roofml("doctor", "a\nroofml: all is well").err.count("\n") == 1
    assert "\nall is well" not in roofml("fit", "--a\nall is well").err


def test_an_error_is_no_book(tmp_path: Path) -> None:
    for line in (["doctor", tmp_path / ("x" * 100_000)], ["predict", "m" * 100_000, "--gpu", "H100"]):
        result = roofml(*line)
        assert result.status != 0
        assert len(result.err) < 2_200


@needs_posix
@pytest.mark.parametrize("columns", [60, 160])
def test_commands_fit_the_terminal(folder: Path, columns: int) -> None:
    status, raw = on_terminal(columns, "evaluate", folder, "--gpu", "H100")
    lines = of_screen(raw)
    assert status == 0
    assert max(len(line.rstrip()) for line in lines) <= columns
    text = "\n".join(lines)
    assert "…" not in text
    for shown in ("quiet", "requests", "p99 TPOT", "request |E2E|", "worst"):
        assert shown in text


@needs_posix
def test_a_path_longer_than_the_terminal_stays_one_word(tmp_path: Path) -> None:
    """So that it can be copied."""
    long = tmp_path / ("x" * 100)
    status, raw = on_terminal(60, "doctor", long)
    assert status == 2
    assert f"{long}: no such" in raw


@needs_posix
def test_columns_tell_a_pipe_its_width(folder: Path) -> None:
    narrow = command("evaluate", folder, "--gpu", "H100", env={**os.environ, "COLUMNS": "70"}).stdout
    assert max(map(len, narrow.splitlines())) <= 70
    assert "quiet" in narrow
    for odd in ("0", "-1", "x", "99999999999999999999", "1"):
        assert command("--version", env={**os.environ, "COLUMNS": odd}).returncode == 0


@needs_posix
def test_a_pipe_gets_plain_text(folder: Path) -> None:
    result = command("doctor", folder, env={**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"})
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr


@needs_posix
def test_reading_shows_progress_on_a_terminal_alone(folder: Path) -> None:
    assert "reading" in on_terminal(80, "doctor", folder)[1]
    assert "reading" not in on_terminal(80, "doctor", folder, "--quiet")[1]


@needs_posix
def test_a_dumb_terminal_is_enough(folder: Path) -> None:
    assert on_terminal(80, "doctor", folder, TERM="dumb")[0] == 0


@needs_posix
@pytest.mark.parametrize("line", ["--help", "--version", "predict llama-2-7b-hf --gpu H100 --decode 700x8 --json"])
def test_a_full_disk_under_standard_output_is_one_line(line: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("has no /dev/full")
    result = shell(f"{line} > /dev/full")
    assert (result.returncode, result.stderr) == (1, "roofml: standard output: No space left on device\n")


@needs_posix
def test_a_closed_standard_output_is_one_line(folder: Path) -> None:
    result = shell("--version >&-")
    assert (result.returncode, result.stderr) == (1, "roofml: standard output: is closed\n")
    assert shell(f"doctor '{folder}' >&-").returncode == 1
    assert shell("doctor nowhere >&-").stderr == "roofml: nowhere: no such file or folder\n"


@needs_posix
@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "2>/dev/full"])
def test_without_standard_error_nothing_crashes(folder: Path, closed: str) -> None:
    assert shell(f"doctor '{folder}' {closed}").returncode == 0
    assert shell(f"fit --bogus {closed}").returncode == 2
    assert shell(f"--version >&- {closed}").returncode == 1


@needs_posix
def test_no_output_file_gets_the_number_of_a_closed_stream(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    """What is printed must not end in a file that was opened in the place of standard output."""
    output = tmp_path / "requests.csv"
    shell(f"replay '{folder}' --coeffs '{coeffs}' -o '{output}' <&- >&- 2>&-")
    assert not output.exists() or output.read_text().startswith("request_id,")


def test_the_page_of_a_board_shows_names_as_they_are() -> None:
    name = "a|b\n| c | <script> `x` [y](z)" + EVIL
    metric = {"mean_abs_error_pct": 1.0, "interval_95": [0.5, 1.5], "p50_abs_error_pct": 1.0, "p90_abs_error_pct": 1.0}
    metric |= {"p99_abs_error_pct": 1.0, "request_mape_pct": 1.0, "bias_pct": 1.0, "worst_pct": 1.0}
    row = {"method": "blackbox", "kind": "baseline", "title": "t|t", "notes": ["x|y"], "free": 1}
    row |= {"e2e": metric, "ttft": metric, "tpot": metric, "throughput_abs_error_pct": 1.0}
    row |= {"p99_e2e_inversions": {"inverted": 0, "pairs": 1}}
    row |= {"saturated": [{"run": name, "e2e": 1.0, "ttft": 1.0, "tpot": 1.0}]}
    row |= {"steps": {name: {"median_abs_error_pct": 1.0, "mape_pct": 1.0, "bias_pct": 1.0, "pearson_r": 1.0}}}
    run = {"run": name, "model": name, "requests": 1, "saturated": True}
    board = {"runs": [run], "protocols": {"temporal": {"methods": [row], "against_best_other": {}}}}
    page = markdown(board, f"roofml leaderboard {name}")
    assert not CONTROL.search(page)
    body = page.replace(page.split("```")[1], "")
    assert "\n| c |" not in page
    assert not re.search(r"(?<!\\)<script>", body)
    assert not re.search(r"(?<!\\)\[y", body)
    assert "t\\|t. Found: x\\|y" in body
