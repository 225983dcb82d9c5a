"""Inputs that once crashed a command, hung it, wrote where they should not or were silently wrong: one test for each.

The names say what was tried; each input is refused in one line that names its file and field, or is harmless now.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import Result, roofml
from quickness import quickly
from runfolder import RunFolder, exp_config, requests

from benchmarks.fuzzing import seeds
from benchmarks.fuzzing.making import rendered
from benchmarks.fuzzing.readers import TAKE, take_listing
from benchmarks.fuzzing.target import controls_in
from roofml.util.errors import InputError

LONGEST_S = 8
"""Of one refusal, on a busy machine; most take milliseconds."""
HUGE = 10**400
Files = dict[str, Any]
Change = Callable[[Files], object]


def good_files() -> Files:
    sheet = next(one for one in seeds.sheets() if one["name"] == "H100")
    return {
        **{
            "run/trace.yaml": seeds.header(),
            "run/trace.csv": seeds.trace(12),
            "run/exp-config.yaml": seeds.exp_config(),
        },
        **{"run/kv-cache.yaml": seeds.kv_cache(), "run/inference-perf.yaml": seeds.inference_perf()},
        **{"coeffs.yaml": seeds.coefficients_of(1), "defaults.yaml": seeds.DEFAULTS.encode()},
        **{"sheet.yaml": sheet | {"name": "Mine"}, "model/config.json": seeds.model_config()},
        **{"model/hf_quant_config.json": seeds.quant_config(), "hardware_config.json": seeds.HARDWARE_CONFIG},
        "steps.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in seeds.otlp(4)),
    }


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ROOFML_TRACEBACK", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "here"


def put(files: Files) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(rendered(name, content))


def changed(change: Change) -> Files:
    files = good_files()
    change(files)
    return files


def run(words: str) -> Result:
    return run_words(*words.split(" "))


def run_words(*words: str) -> Result:
    with quickly(LONGEST_S):
        result = roofml(*words)
    assert not controls_in(result.out + result.err)
    return result


def refused(words: str, *said: str) -> str:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and not path.is_symlink()}
    result = run(words)
    assert result.status == 2, result.err or result.out
    line = result.err.splitlines()[-1]
    assert line.startswith("roofml: ")
    assert not result.out
    for part in said:
        assert part in line
    for path, raw in before.items():
        assert path.read_bytes() == raw, f"{path} was changed"
    return line


def at(name: str, *keys: Any, value: Any) -> Change:
    """Put a value at a place in a file."""

    def change(files: Files) -> None:
        place = files[name]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def raw(name: str, content: bytes) -> Change:
    return lambda files: files.update({name: content})


def cell(row: int, column: str, value: Callable[[int], object]) -> Change:
    def change(files: Files) -> None:
        rows = files["run/trace.csv"]
        place = rows[0].index(column)
        rows[row][place] = str(value(int(rows[row][place])))

    return change


def every_row(column: str, value: Callable[[int], object]) -> Change:
    return lambda files: [cell(row, column, value)(files) for row in range(1, 13)]


def paces(files: Files) -> None:
    fit = files["coeffs.yaml"]["fit"]
    fit["paces"] = dict.fromkeys(fit["runs"], -1.0)


def event_name(files: Files) -> None:
    files["steps.jsonl"] = files["steps.jsonl"].replace(b'"step.BATCH_SUMMARY"', b"[1]")


Case = tuple[Change, str]
"""What is changed, and what the refusal says."""
DOCTOR, INSPECT = "doctor run --json", "inspect model --gpu sheet.yaml"
EXPORT = "export blis coeffs.yaml --defaults defaults.yaml"
PREDICT = "predict llama-2-7b-hf --gpu H100 --coeffs coeffs.yaml --decode 700x4"
REPLAY = "replay run --coeffs coeffs.yaml"
BOMB = b"".join(b"  k%d: &k%d [*a, *a]\n" % (i, i) for i in range(3))
TRACES: dict[str, Case] = {
    "yaml-bool-tag": (raw("run/exp-config.yaml", b"gpu: !!bool x\n"), "exp-config.yaml: line 1: tags"),
    "yaml-int-tag-empty": (raw("run/kv-cache.yaml", b'block_size: !!int ""\n'), "kv-cache.yaml: line 1"),
    "yaml-nested-list-key": (raw("run/trace.yaml", b"? [[a]]\n: 1\n"), "trace.yaml: line 1: a list"),
    "yaml-version": (raw("run/trace.yaml", b"%YAML 1.3\n---\na: 1\n"), "trace.yaml: "),
    "header-rtt-infinite": (at("run/trace.yaml", "network", "measured_rtt_ms", value=math.inf), "measured_rtt_ms"),
    "perf-output-len-huge": (
        at("run/inference-perf.yaml", "data", "shared_prefix", "output_len", value=10**30),
        "inference-perf.yaml: data.shared_prefix.output_len",
    ),
    "time-before-it-was-sent": (every_row("first_chunk_time_us", lambda us: us - 10**7), "trace.csv: line 2: first_"),
    "time-in-ns": (every_row("last_chunk_time_us", lambda us: 10**18), "trace.csv: line"),
    "limits-huge": (at("run/kv-cache.yaml", "num_gpu_blocks", value=2 * 10**9), "kv-cache.yaml: num_gpu_blocks"),
}
CONFIGS: dict[str, Case] = {
    "config-duplicate-keys": (
        raw("model/config.json", b'{"hidden_size": 1, "hidden_size": 2}'),
        "config.json: key 'hidden_size' is there twice",
    ),
    "config-not-json": (raw("model/config.json", b"[" * 100_000), "config.json: not valid JSON: nested too deep"),
    "quant-config-list": (raw("model/hf_quant_config.json", b"[]"), "hf_quant_config.json: expected a JSON object"),
    "gpu-bandwidth-in-gb": (at("sheet.yaml", "bandwidth_tb_per_s", value=3350), "sheet.yaml: bandwidth_tb_per_s"),
    "gpu-memory-huge": (at("sheet.yaml", "memory_gib", value=9e8), "sheet.yaml: memory_gib"),
    "gpu-sm-count-fraction": (at("sheet.yaml", "sm_count", value=0.2), "sheet.yaml: sm_count"),
    "gpu-name-number": (at("sheet.yaml", "name", value=5), "sheet.yaml: name"),
    "gpu-name-empty": (at("sheet.yaml", "name", value=""), "sheet.yaml: name"),
    "gpu-name-list": (at("sheet.yaml", "name", value=["H100"]), "sheet.yaml: name"),
    "gpu-name-is-a-path": (at("sheet.yaml", "name", value="../x"), "sheet.yaml: name"),
}
EXPORTS: dict[str, Case] = {
    "yaml-bool-tag-in-defaults": (raw("defaults.yaml", b"version: !!bool x\n"), "defaults.yaml: line 1: tag"),
    "bomb-defaults": (raw("defaults.yaml", b"lora: &a [1]\nworkloads:\n" + BOMB + b"x: 1\n"), "line 6: unknown key"),
    "deep-defaults": (raw("defaults.yaml", b"lora: " + b"[" * 3000 + b"]" * 3000 + b"\n"), "defaults.yaml: line 1"),
    "coeffs-schema": (at("coeffs.yaml", "schema", value="roofml/9"), "coeffs.yaml: schema: roofml/9 is newer"),
    "coeffs-step-missing": (lambda files: files["coeffs.yaml"].pop("step"), "coeffs.yaml: step"),
    "coeffs-unknown-key": (at("coeffs.yaml", "stepp", value=1), "coeffs.yaml: stepp"),
    "coeffs-betas-huge": (at("coeffs.yaml", "blis", "beta_coeffs", 0, value=10**400), "coeffs.yaml: line"),
    "coeffs-beta-of-30-digits": (
        at("coeffs.yaml", "blis", "beta_coeffs", 0, value=10**30),
        "coeffs.yaml: blis.beta_coeffs.0",
    ),
    "coeffs-gpu-empty": (at("coeffs.yaml", "gpu", value=""), "coeffs.yaml: gpu"),
    "escape-gpu": (at("coeffs.yaml", "gpu", value="../../x\n"), "coeffs.yaml: gpu"),
    "control-characters": (at("coeffs.yaml", "model", "name", value="\x1b[31m"), "coeffs.yaml: model.name"),
}
PREDICTIONS: dict[str, Case] = {
    "coeffs-valid-huge": (at("coeffs.yaml", "fit", "valid", "batch", value=[1, 10**299]), "coeffs.yaml: fit.valid"),
    "coeffs-tp-text": (at("coeffs.yaml", "tensor_parallel", value="1"), "coeffs.yaml: tensor_parallel"),
    "coeffs-weights-boolean": (
        at("coeffs.yaml", "step", "corrections", "weights", value=True),
        "coeffs.yaml: step.corrections.weights",
    ),
    "coeffs-weights-word": (
        at("coeffs.yaml", "step", "corrections", "weights", value="one"),
        "coeffs.yaml: step.corrections.weights",
    ),
    "coeffs-pace-negative": (paces, "coeffs.yaml: fit.paces"),
    "coeffs-sd-nan": (at("coeffs.yaml", "fit", "sd", "weights", value=math.nan), "coeffs.yaml: fit.sd"),
}
REFUSED = [
    pytest.param(words, *case, id=name)
    for words, cases in ((DOCTOR, TRACES), (INSPECT, CONFIGS), (EXPORT, EXPORTS), (PREDICT, PREDICTIONS))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("words", "change", "said"), REFUSED)
def test_a_hostile_file_is_refused_by_name(words: str, change: Change, said: str) -> None:
    put(changed(change))
    refused(words, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xef", "not UTF-8 text (byte 0)"), (b"\xef\xbb", "not UTF-8"), (b"\xef\xbb\xbf", "line 1: not a TraceV2")],
)
def test_a_trace_of_a_part_of_a_byte_order_mark_is_refused(content: bytes, said: str) -> None:
    put(changed(raw("run/trace.csv", content)))
    refused(DOCTOR, f"trace.csv: {said}")


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("model/config.json", "torch_dtype"),
        ("model/config.json", "architectures"),
        ("model/config.json", "layer_types"),
        ("model/config.json", "quantization_config"),
        ("sheet.yaml", "name"),
        ("sheet.yaml", "source"),
    ],
)
def test_a_refusal_does_not_repeat_thousands_of_characters(file: str, field: str) -> None:
    long = "x" * 5000
    values = {"architectures": [long], "layer_types": [long] * 40, "quantization_config": {"quant_method": long}}
    put(changed(at(file, field, value=values.get(field, long))))
    if field == "layer_types":
        put({file: seeds.model_config("gpt-oss-20b") | {field: [long] * 40}})
    assert len(refused(INSPECT)) < 1000


def test_steps_name_list_is_refused() -> None:
    put(changed(event_name))
    refused("doctor steps.jsonl", "steps.jsonl: ")


def test_last_chunks_days_late_are_not_fitted() -> None:
    put(changed(every_row("last_chunk_time_us", lambda us: us + 10**12)))
    refused("fit run --gpu H100 -o out/coeffs.yaml", "run: time-unit")


def test_escape_gpu_an_export_stays_in_its_folder(here: Path) -> None:
    put(changed(at("coeffs.yaml", "gpu", value="../../x")))
    before = set(here.parent.rglob("*"))
    assert run("export blis coeffs.yaml -o out").status == 0
    assert set(here.parent.rglob("*")) - before == {here / "out/llama-2-7b-hf-x-tp1.defaults.yaml"}


DERIVE = "export blis --derive llama-2-7b-hf --gpu H100"
OPTIONS: dict[str, tuple[str, str]] = {
    "usage-inspect-seqs-zero": (f"{INSPECT} --max-num-seqs 0", "max_num_seqs"),
    "usage-inspect-tokens-huge": (f"{INSPECT} --max-num-batched-tokens {HUGE}", "max_num_batched_tokens"),
    "usage-inspect-memory-nan": (f"{INSPECT} --gpu-memory-utilization nan", "gpu_memory_utilization"),
    "usage-inspect-memory-2": (f"{INSPECT} --gpu-memory-utilization 2", "gpu_memory_utilization"),
    "usage-derive-seqs-zero": (f"{DERIVE} --max-num-seqs 0", "--max-num-seqs"),
    "usage-derive-tokens-negative": (f"{DERIVE} --max-num-batched-tokens -1", "--max-num-batched-tokens"),
    "usage-derive-tp-zero": (f"{DERIVE} --tp 0", "tp"),
    "huge-flag-blocks": (f"{REPLAY} --num-gpu-blocks 2000000000", "--num-gpu-blocks"),
    "huge-flag-seqs": (f"{REPLAY} --max-num-seqs 500000000", "--max-num-seqs"),
    "huge-flag-tokens": (f"{REPLAY} --max-num-batched-tokens 500000000", "--max-num-batched-tokens"),
    "huge-flag-output-tokens": (f"{REPLAY} --output-tokens 9000000000000000", "--output-tokens"),
    "feasible-replay-blocks": (f"{REPLAY} --num-gpu-blocks 100000", "num_gpu_blocks 100000"),
    "feasible-replay-positions": (f"{REPLAY} --max-model-len 400000", "max_model_len 400000"),
    "feasible-predict-memory": ("predict llama-2-70b-hf --gpu H100 --decode 700x4", "does not fit"),
    "feasible-predict-positions": ("predict llama-2-7b-hf --gpu H100 --decode 70000x4", "4096 positions"),
    "predict-text": ("predict llama-2-7b-hf --gpu H100 --decode nanx1", "--decode"),
    "bench-import-date-injection": ("bench import --gpu H100 --from out -o out --date 2026\n1", "--date"),
    "out-is-input-coefficients": ("replay run --coeffs coeffs.yaml -o coeffs.yaml", "coeffs.yaml: is an input"),
    "out-is-input-trace": ("replay run --coeffs coeffs.yaml -o run/trace.csv", "trace.csv: is an input"),
    "out-defaults-is-hardware-config": (f"{EXPORT} --hardware-config defaults.yaml", "defaults.yaml"),
    "gpu-sheet-is-missing": ("inspect model --gpu nowhere/x.yaml", "nowhere/x.yaml: no such file"),
    "path-too-long": (f"doctor {'x' * 500}", "File name too long"),
    "run-given-twice": ("doctor run run", "run: given twice"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_hostile_option_is_refused_by_name(name: str) -> None:
    put(good_files())
    words, said = OPTIONS[name]
    result = run(words)
    assert result.status == 2, result.err or result.out
    *warnings, line = result.err.splitlines()
    assert line.startswith("roofml: ")
    assert said in line
    assert all(warning.startswith("warning: ") for warning in warnings)


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and links are POSIX's")
@pytest.mark.parametrize("kind", ["fifo", "zero", "loop", "broken", "folder"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run/inference-perf.yaml", DOCTOR),
        ("run/trace.csv", DOCTOR),
        ("steps.jsonl", "doctor steps.jsonl"),
        ("model/config.json", INSPECT),
        ("model/hf_quant_config.json", INSPECT),
        ("sheet.yaml", INSPECT),
        ("coeffs.yaml", REPLAY),
        ("coeffs.yaml", EXPORT),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(name: str, words: str, kind: str) -> None:
    put(good_files())
    path = Path(name)
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"zero": "/dev/zero", "loop": path.name, "broken": "nowhere"}[kind])
    refused(words)


def test_escape_codes_in_a_trace_do_not_reach_the_terminal() -> None:
    def change(files: Files) -> None:
        files["run/exp-config.yaml"]["\x1b]0;owned\x07"] = 1
        rows = files["run/trace.csv"]
        rows[2][rows[0].index("status")] = "error"
        rows[2][rows[0].index("error_message")] = "\x1b[2Jgone\u202e"

    put(changed(change))
    assert run("doctor run").status == 0
    assert run("doctor run --json").status == 0
    refused("doctor run/\x1b[31m", "no such file")


def test_inject_told_line_the_line_to_paste_runs_no_command() -> None:
    put(changed(at("coeffs.yaml", "model", "name", value="x; touch owned #$(id)")))
    result = run("export blis coeffs.yaml --flags")
    assert result.status == 0, result.err
    assert "'x; touch owned #$(id)'" in result.out


def test_hub_file_other_commit_is_refused() -> None:
    config = seeds.model_config()
    answers = {"listing": seeds.hub_listing(), "config.json": config, "hf_quant_config.json": {}, "status": 200}
    with pytest.raises(InputError, match=f"the Hub sends that of {'b' * 40}, asked for {'a' * 40}"):
        TAKE["hub"](answers | {"commit": "b" * 40})


@pytest.mark.parametrize(
    "listing",
    [b"", b"[]", b"null", b'{"id": 5}', b'{"id": "a/b", "sha": []}', b"{" * 5000, b'{"siblings": "x"}', b"\xff"],
)
def test_odd_hub_answers_are_refused(listing: bytes) -> None:
    with pytest.raises(InputError, match="meta-llama/Llama-2-7b-hf"):
        take_listing(listing)


def test_a_setting_of_thousands_of_letters_is_not_repeated_whole(tmp_path: Path) -> None:
    settings = exp_config() | {"model": "x" * 5000}
    run = RunFolder(rows=requests(60), exp_config=settings).write(tmp_path / "run")
    result = run_words("doctor", str(run))
    assert result.status == 2
    assert len(result.err) < 1000


def test_a_folder_whose_name_no_system_takes_is_refused(tmp_path: Path) -> None:
    """Of kept cells: nothing is computed before."""
    run = RunFolder(rows=requests(60)).write(tmp_path / "run")
    result = run_words("leaderboard", str(run), "--gpu", "H100", "-o", str(tmp_path / "b.md"), "--cells", "9" * 400)
    assert result.status == 2
    assert "File name too long" in result.err


def test_a_blank_word_leaves_the_usage_readable() -> None:
    result = run_words("inspect", "llama-2-7b-hf", "--gpu", "H100", "--tp", " ")
    assert result.status == 2
    assert "Usage: roofml inspect" in result.err
