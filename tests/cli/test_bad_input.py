"""Bad input on the command line: one line that names file and line or field, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commandline import ok, roofml
from runfolder import RunFolder, exp_config, header, requests

pytestmark = pytest.mark.slow

BOMB = "\n".join(
    ['a: &a ["x","x","x","x","x","x","x","x","x"]']
    + [f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
)

Damage = Callable[[Path], None]


def cell(request: int, column: str, text: object) -> Damage:
    """Put `text` into one cell: row `request` counted from 0, which stands on line `request` + 2."""

    def damage(folder: Path) -> None:
        lines = (folder / "trace.csv").read_text().splitlines()
        cells = lines[request + 1].split(",")
        cells[lines[0].split(",").index(column)] = str(text)
        lines[request + 1] = ",".join(cells)
        (folder / "trace.csv").write_text("\n".join(lines) + "\n")

    return damage


def every_cell(column: str, text: object) -> Damage:
    def damage(folder: Path) -> None:
        lines = [line.split(",") for line in (folder / "trace.csv").read_text().splitlines()]
        place = lines[0].index(column)
        for cells in lines[1:]:
            cells[place] = str(text)
        (folder / "trace.csv").write_text("\n".join(",".join(cells) for cells in lines) + "\n")

    return damage


def without_column(column: str) -> Damage:
    def damage(folder: Path) -> None:
        lines = [line.split(",") for line in (folder / "trace.csv").read_text().splitlines()]
        place = lines[0].index(column)
        (folder / "trace.csv").write_text("\n".join(",".join(c[:place] + c[place + 1 :]) for c in lines) + "\n")

    return damage


def with_column(name: str) -> Damage:
    def damage(folder: Path) -> None:
        first, *rest = (folder / "trace.csv").read_text().splitlines()
        lines = [f"{first},{name}", *(f"{line},1" for line in rest)]
        (folder / "trace.csv").write_text("\n".join(lines) + "\n")

    return damage


def yaml(name: str, *path: str, value: object) -> Damage:
    """Set one key of a YAML file of the folder, which is written as JSON."""

    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(document))

    return damage


def content(name: str, data: bytes | str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return damage


def cut(folder: Path) -> None:
    text = (folder / "trace.csv").read_text()
    (folder / "trace.csv").write_text(text[: text.rindex("\n", 0, -1) + 30])


def from_the_third_on(column: str, text: object) -> Damage:
    """One bad row costs that row; a few that are alike are a broken file."""

    def damage(folder: Path) -> None:
        for request in range(2, 8):
            cell(request, column, text)(folder)

    return damage


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def header_line_alone(folder: Path) -> None:
    (folder / "trace.csv").write_text((folder / "trace.csv").read_text().splitlines()[0] + "\n")


def nothing_there(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


GARBAGE = bytes(range(256)) * 20

BAD_RUNS: dict[str, tuple[Damage, str]] = {
    "missing column": (without_column("output_tokens"), r"trace\.csv: line 1: column output_tokens is missing"),
    "extra column": (with_column("mood"), r"trace\.csv: line 1: unknown column 'mood'"),
    "header of another version": (yaml("trace.yaml", "trace_version", value=4), r"trace\.yaml: trace_version is 4"),
    "unknown header key": (yaml("trace.yaml", "mood", value=1), r"trace\.yaml: unknown key mood"),
    "negative time": (cell(2, "send_time_us", -5), r"trace\.csv: line 4: send_time_us is '-5'"),
    "last chunk before first": (
        from_the_third_on("last_chunk_time_us", 1),
        r"trace\.csv: line 4: last_chunk_time_us is '1'",
    ),
    "first chunk before send": (
        from_the_third_on("first_chunk_time_us", 1),
        r"trace\.csv: line 4: first_chunk_time_us is '1'",
    ),
    "NaN": (cell(5, "last_chunk_time_us", "NaN"), r"trace\.csv: line 7: last_chunk_time_us is 'NaN'"),
    "infinity": (cell(5, "send_time_us", "inf"), r"trace\.csv: line 7: send_time_us is 'inf'"),
    "a number of 400 digits": (cell(0, "input_tokens", "9" * 400), r"trace\.csv: line 2: input_tokens is '9+\.\.\.'"),
    "empty trace": (content("trace.csv", b""), r"trace\.csv: empty"),
    "no rows": (header_line_alone, r"trace\.csv: no rows"),
    "cut short": (cut, r"trace\.csv: line 41: \d+ cells, expected 27; the file is cut short"),
    "binary trace": (content("trace.csv", GARBAGE), r"trace\.csv: not UTF-8 text"),
    "zero bytes": (content("trace.csv", bytes(500)), r"trace\.csv: "),
    "binary header": (content("trace.yaml", GARBAGE), r"trace\.yaml: not UTF-8 text"),
    "empty header": (content("trace.yaml", ""), r"trace\.yaml: expected a mapping"),
    "no success": (every_cell("status", "error"), r"trace\.csv: status: no successful request among 40"),
    "the same request twice": (cell(7, "request_id", 0), r"trace\.csv: line \d: request_id 0 stands on line \d too"),
    "bomb in the header": (content("trace.yaml", BOMB), r"trace\.yaml: line 1: anchors and aliases"),
    "bomb beside the trace": (content("exp-config.yaml", BOMB), r"exp-config\.yaml: line 1: anchors and aliases"),
    "bomb in the generator's file": (content("inference-perf.yaml", BOMB), r"inference-perf\.yaml: line 1: anchors"),
    "deep nesting": (content("kv-cache.yaml", "a: " + "[" * 500_000), r"kv-cache\.yaml: line 1: nested"),
    "not YAML": (content("exp-config.yaml", "a: [1"), r"exp-config\.yaml: line \d+: not valid YAML"),
    "the same key twice": (content("kv-cache.yaml", "block_size: 16\nblock_size: 32\n"), r"kv-cache\.yaml: line 2"),
    "files that disagree": (
        yaml("exp-config.yaml", "max_num_seqs", value=64),
        r"max_num_seqs: .*says 64.*--max-num-seqs",
    ),
    "half a block": (yaml("kv-cache.yaml", "block_size", value=16.5), r"kv-cache\.yaml: block_size: 16\.5"),
    "no KV blocks": (gone("kv-cache.yaml"), r"num_gpu_blocks: not said by .*give --num-gpu-blocks"),
    "no header": (gone("trace.yaml"), r"trace\.yaml: no such file"),
    "no trace": (gone("trace.csv"), r"trace\.csv: no such file"),
    "an empty folder": (nothing_there, r"run: not a run; expected a folder with trace\.yaml and trace\.csv"),
    "another engine": (
        yaml("trace.yaml", "server", "type", value="tgi"),
        r"trace\.yaml: engine: .tgi., expected one of",
    ),
    "pipeline parallelism": (yaml("exp-config.yaml", "pipeline_parallelism", value=2), r"pipeline_parallelism is 2"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return RunFolder(rows=requests(40)).write(tmp_path / "run")


def command_line(command: str, folder: Path) -> list[object]:
    """The command on the folder, asked to write where it can write."""
    more: dict[str, list[object]] = {
        "doctor": [],
        "fit": ["--gpu", "H100", "-o", folder.parent / "output.yaml"],
        "evaluate": ["--gpu", "H100"],
    }
    return [command, folder, *more[command]]


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *arguments: object) -> str:
    """The line that says why `roofml` refuses these arguments, having written nothing in `folder`."""
    before = everything_in(folder)
    result = roofml(*arguments)
    assert result.status == 2, result.err
    assert result.out == ""
    assert re.fullmatch(r"roofml: [^\n]+\n", result.err), result.err
    assert everything_in(folder) == before
    return result.err


DOCTOR_TELLS = {"no KV blocks"}
"""What keeps commands from computing, and not the doctor from telling the rest."""


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        (damage, command)
        for damage in BAD_RUNS
        for command in ("doctor", "fit", "evaluate")
        if command != "doctor" or damage not in DOCTOR_TELLS
    ],
)
def test_a_bad_run_is_refused_by_file_and_line_or_field(folder: Path, damage: str, command: str) -> None:
    change, message = BAD_RUNS[damage]
    change(folder)
    line = refused(folder.parent, *command_line(command, folder))
    assert re.search(message, line), line
    assert str(folder) in line


@pytest.mark.parametrize("flag", [[], ["--json"], ["--quiet"]])
def test_json_and_quiet_refuse_alike(folder: Path, flag: list[str]) -> None:
    cell(5, "last_chunk_time_us", "NaN")(folder)
    assert "line 7" in refused(folder.parent, "doctor", folder, *flag)


def test_the_damage_is_what_is_refused(folder: Path) -> None:
    """Without damage the same lines succeed: no case above is refused for another reason."""
    for command in ("doctor", "fit", "evaluate"):
        ok(*command_line(command, folder))


@pytest.mark.parametrize("command", ["doctor", "fit", "evaluate"])
def test_one_bad_run_among_good_ones_is_refused(folder: Path, command: str) -> None:
    bad = RunFolder(rows=requests(40)).write(folder.parent / "bad")
    content("trace.csv", b"")(bad)
    line = command_line(command, folder)
    assert "bad/trace.csv: empty" in refused(folder.parent, *line[:2], bad, *line[2:])


@pytest.mark.parametrize("command", ["doctor", "fit", "evaluate"])
def test_a_path_where_nothing_is(folder: Path, command: str) -> None:
    line = command_line(command, folder)
    assert "nowhere: no such file or folder" in refused(folder.parent, line[0], folder / "nowhere", *line[2:])


def with_server(folder: Path, **server: Any) -> Path:
    names = {"tensor_parallel": "tensor_parallelism"}
    told = header()
    told["server"] |= server
    settings = exp_config() | {names.get(key, key): value for key, value in server.items()}
    rows = requests(40)
    for row in rows:
        row["model"] = told["server"]["model"]
    return RunFolder(rows=rows, header=told, exp_config=settings).write(folder)


@pytest.mark.parametrize("command", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"model": "nobody/no-such-model"}, r"model 'nobody/no-such-model': no such path and not in model_configs/"),
        ({"tensor_parallel": 3}, r"llama-2-7b-hf: vocab_size .* does not divide by tensor parallel size 3"),
        ({"tensor_parallel": 64}, r"llama-2-7b-hf: num_attention_heads 32 .*64"),
    ],
)
def test_a_model_that_cannot_be(tmp_path: Path, command: str, server: dict[str, Any], message: str) -> None:
    run = with_server(tmp_path / "run", **server)
    assert re.search(message, refused(tmp_path, *command_line(command, run)))


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_gpu_that_nobody_names(folder: Path, command: str) -> None:
    assert "give --gpu" in refused(folder.parent, command, folder)
    assert "gpu 'TPU': not in hardware/" in refused(folder.parent, command, folder, "--gpu", "TPU")


@pytest.mark.parametrize("flags", [["--tp", "0"], ["--block-size", "-16"], ["--max-num-seqs", "0"], ["--model", " "]])
def test_a_flag_that_cannot_be(folder: Path, flags: list[str]) -> None:
    assert flags[0] in refused(folder.parent, "doctor", folder, *flags)


@pytest.mark.parametrize("share", ["0", "-0.5", "1.5", "nan"])
def test_a_share_that_cannot_be(folder: Path, share: str) -> None:
    assert "train" in refused(folder.parent, "fit", folder, "--gpu", "H100", "--train-fraction", share)


# Output


@pytest.mark.parametrize("command", ["fit", "replay", "demo"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    folder: Path, coeffs: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    homes = {"calibration.calibrate": "fit", "validation.evaluation": "replay_run", "validation.demo": "run_demo"}
    modules = {import_module(f"roofml.{home}"): name for home, name in homes.items()}
    for module, name in modules.items():  # imported before any is patched: one takes `fit` from another for good
        monkeypatch.setattr(module, name, work)
    lines: dict[str, list[object]] = {
        "fit": ["fit", folder, "--gpu", "H100"],
        "replay": ["replay", folder, "--coeffs", coeffs],
        "demo": ["demo"],
    }
    nowhere = folder / "nowhere" / "output"
    said = refused(folder.parent, *lines[command], "-o", nowhere)
    assert f"{nowhere}: folder {nowhere.parent} does not exist" in said
    assert f"{folder}: is a folder" in refused(folder.parent, *lines[command], "-o", folder)


def test_a_fit_that_fails_leaves_an_older_file_as_it_was(folder: Path) -> None:
    output = folder.parent / "output.yaml"
    output.write_text("older")
    every_cell("status", "error")(folder)
    refused(folder.parent, "fit", folder, "--gpu", "H100", "-o", output)
    assert output.read_text() == "older"


# Coefficients


def replaced(pattern: str, text: str) -> Callable[[str], str]:
    def change(whole: str) -> str:
        new, number = re.subn(pattern, text, whole, count=1, flags=re.MULTILINE)
        assert number == 1
        return new

    return change


BAD_COEFFS: dict[str, tuple[Callable[[str], str | bytes | None], str]] = {
    "unknown key": (lambda text: text + "mood: good\n", r"mood: "),
    "unknown parameter": (replaced(r"^    weights:", "    wait:"), r"step\.corrections\.\w+: "),
    "missing key": (replaced(r"^gpu: .*\n", ""), r"gpu: "),
    "NaN": (replaced(r"^    per_step_us: .*", "    per_step_us: .nan"), r"step\.overheads_us\.per_step_us: "),
    "out of bounds": (replaced(r"^    max_weight: .*", "    max_weight: 2"), r"step\.blend\.max_weight: 2"),
    "another schema": (replaced("roofml/1", "roofml/9"), r"schema: "),
    "a word for a number": (replaced(r"^tensor_parallel: .*", "tensor_parallel: two"), r"tensor_parallel: "),
    "a bomb": (lambda _: BOMB, r"line 1: anchors and aliases"),
    "binary": (lambda _: GARBAGE, r"not UTF-8 text"),
    "empty": (lambda _: "", r"expected a mapping"),
    "cut short": (lambda text: text[: len(text) // 3], r": "),
    "not there": (lambda _: None, r"no such file"),
}


@pytest.mark.parametrize("command", ["replay", "evaluate", "predict"])
@pytest.mark.parametrize("damage", BAD_COEFFS)
def test_bad_coefficients_are_refused_by_file_and_field(folder: Path, coeffs: Path, damage: str, command: str) -> None:
    change, message = BAD_COEFFS[damage]
    bad = folder.parent / "bad.yaml"
    text = change(coeffs.read_text())
    if text is not None:
        bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    line: list[object] = [command, folder]
    if command == "predict":
        line = ["predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x2"]
    if command == "replay":
        line += ["-o", folder.parent / "requests.csv"]
    said = refused(folder.parent, *line, "--coeffs", bad)
    assert said.startswith(f"roofml: {bad}: ")
    assert re.search(message, said), said
