"""What any command's answer must be, whatever its input, and what the results of some must be."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from roofml.calibration.coefficients import read_coefficients
from roofml.cli.main import run
from roofml.hardware.gpu import load_gpu
from roofml.latency.roofline import step_loads
from roofml.models.load import load_model
from roofml.util.errors import InputError

from .making import rendered, work_folder
from .target import NonsenseError, controls_in

EXCEPTION = re.compile(r"^roofml: ([A-Z]\w*(Error|Exception|Warning|Interrupt)|StopIteration|AssertionError)\b")
LEAST_OF_IDEAL = 0.3
"""A predicted step is no shorter than this share of its roofline: GPUs of one name differ by far less."""
MOST_OF_FIT_PCT = 30.0
"""In-sample error of mean E2E above which a fit should not have ended well."""
EDITED = ("defaults.yaml", "hardware_config.json", "out/blis-flags.sh")
"""Files that an export may change."""
OUTPUTS = ("-o", "--output", "--plot", "--defaults", "--hardware-config")


@dataclass
class Situation:
    """A command line and the files in the folder that it runs in."""

    arguments: list[str]
    files: dict[str, Any] = field(default_factory=dict[str, Any])
    """Name -> a tree (YAML or JSON), rows (CSV) or bytes."""


@dataclass(frozen=True)
class Answer:
    """What a command line said and how it ended."""

    status: int
    out: str
    err: str


def carry_out(situation: Situation) -> Answer:
    """Run the command in a new folder. Raises NonsenseError for what no command may do, whatever its input."""
    outside = work_folder() / "commands"
    shutil.rmtree(outside, ignore_errors=True)
    folder = outside / "folder"
    (folder / "out").mkdir(parents=True)
    for name, content in situation.files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rendered(name, content))
    before = _contents(outside)
    out, err, home = StringIO(), StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = run(_words(situation.arguments))
    finally:
        os.chdir(home)
    answer = Answer(status, out.getvalue(), err.getvalue())
    _check_answer(answer)
    _check_files(situation, before, _contents(outside), answer)
    if answer.status == 0 and "--json" in situation.arguments:
        _document(answer.out)
    return answer


def _words(arguments: Sequence[str]) -> list[str]:
    """As a system can hand them over: without zero bytes."""
    return [word.replace("\0", "").encode("utf-8", "replace").decode() for word in arguments]


def _contents(folder: Path) -> dict[str, bytes]:
    return {os.path.relpath(path, folder / "folder"): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _check_answer(answer: Answer) -> None:
    said = answer.out + answer.err
    lines = answer.err.rstrip("\n").splitlines()
    if answer.status not in (0, 1, 2):
        raise NonsenseError(f"exit status {answer.status}")
    if "Traceback (most recent call last)" in said:
        raise NonsenseError(f"a traceback is printed: {said[-800:]}")
    if controls_in(said):
        raise NonsenseError(f"control characters are printed: {controls_in(said)!a}: {said[-800:]!r}")
    if answer.status and not lines:
        raise NonsenseError(f"exit status {answer.status} without a word")
    if answer.status and not (lines[-1].startswith(("roofml: ", "Error: ")) or "Usage: " in answer.err):
        raise NonsenseError(f"exit status {answer.status} and no line of ours at the end: {answer.err[-800:]}")
    if answer.status == 1 and EXCEPTION.match(lines[-1]):
        raise NonsenseError(f"an exception's name is printed: {lines[-1][:800]}")
    if answer.status == 2 and answer.out:
        raise NonsenseError(f"refused, and results are printed: {answer.out[:300]}")


def _check_files(situation: Situation, before: Mapping[str, bytes], after: Mapping[str, bytes], answer: Answer) -> None:
    """Raise NonsenseError where something else was written than the command line names."""
    words = situation.arguments
    named = {os.path.normpath(words[i + 1]) for i, word in enumerate(words[:-1]) if word in OUTPUTS}
    named |= {os.path.normpath(word.partition("=")[2]) for word in words if word.startswith(OUTPUTS) and "=" in word}
    for name, raw in before.items():
        editable = words[0] == "export" and name in EDITED
        if after.get(name) != raw and not (editable and answer.status == 0):
            raise NonsenseError(f"an input was changed: {name}")
    for name in set(after) - set(before):
        plain = re.sub(r"\.bak[0-9]*$", "", name)
        if not (plain in named or any(name.startswith(f"{one}/") or one == "." for one in (*named, "out"))):
            raise NonsenseError(f"a file was written that nobody asked for: {name}")
        if answer.status == 2:
            raise NonsenseError(f"refused, and a file was written: {name}")
        if ".tmp" in name or ".lock" in name:
            raise NonsenseError(f"a temporary file is left: {name}")


def _document(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise NonsenseError(f"{constant} in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise NonsenseError(f"not one JSON document: {error}") from None


def _finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def take(situation: Situation) -> None:
    """Run a command line and judge its answer."""
    answer = carry_out(situation)
    if answer.status == 0:
        check = CHECKS.get(situation.arguments[0])
        if check is not None and "--json" in situation.arguments:
            check(situation, _document(answer.out))
    else:
        raise InputError(answer.err.rstrip("\n").splitlines()[-1])


def _check_predict(situation: Situation, document: Any) -> None:
    step = document["step_time_us"]
    if not (_finite(step) and step > 0):
        raise NonsenseError(f"a step of {step} µs")
    requests: list[tuple[int, int]] = []
    words = situation.arguments
    for option, value in pairwise(words):
        if option == "--prefill":
            new, context = map(int, value.split("@"))
            requests.append((new, context))
        elif option == "--decode":
            context, count = map(int, value.split("x"))
            requests += [(1, context)] * count
    model, gpu = work_folder() / "commands/folder" / words[1], load_gpu(document["gpu"])
    spec = load_model(str(model) if model.exists() else words[1])
    ideal = sum(load.ideal_us(gpu) for load in step_loads(spec, document["tp"], requests))
    if step < LEAST_OF_IDEAL * ideal:
        raise NonsenseError(f"a step of {step} µs, and its roofline is {ideal} µs")


def _check_replay(_: Situation, document: Any) -> None:
    for name, metric in document["metrics"].items():
        for key in ("measured_us", "predicted_us"):
            if not (_finite(metric[key]) and metric[key] >= 0):
                raise NonsenseError(f"{name}: {key} is {metric[key]}")
        interval = metric.get("interval_90_us")
        if interval is not None and not (all(map(_finite, interval)) and 0 <= interval[0] <= interval[1]):
            raise NonsenseError(f"{name}: an interval of {interval}")


def _check_evaluate(situation: Situation, document: Any) -> None:
    for report in document["runs"]:
        _check_replay(situation, report)


def _rows(rows: Any) -> list[Any]:
    return rows or []


def _check_inspect(_: Situation, document: Any) -> None:
    numbers = [document["parameters"]["total"], document["layers"], document["weight_bytes_per_gpu"]]
    numbers += [row["us"] for row in _rows(document["ideal_steps"])]
    if not all(_finite(number) and number > 0 for number in numbers):
        raise NonsenseError(f"numbers of a model: {numbers}")


def _check_fit(situation: Situation, document: Any) -> None:
    for report in document["runs"]:
        error = report["metrics"]["e2e_mean"]["error_pct"]
        if abs(error) > MOST_OF_FIT_PCT and "--accept-misfit" not in situation.arguments:
            raise NonsenseError(f"a fit that ended well, with E2E {error:+.1f} % off in sample")
    written = work_folder() / "commands/folder/out/coeffs.yaml"
    if document["output"] == "out/coeffs.yaml":
        read_coefficients(written)


CHECKS: Mapping[str, Callable[[Situation, Any], None]] = {
    "predict": _check_predict,
    "replay": _check_replay,
    "evaluate": _check_evaluate,
    "inspect": _check_inspect,
    "fit": _check_fit,
}
