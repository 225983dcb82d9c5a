"""Reading BLIS TraceV2: what a run says, and every way a run can be broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quickness import assert_within, best_s
from runfolder import (
    MODEL,
    OVERLOADED,
    Row,
    RunFolder,
    eleven_runs,
    exp_config,
    header,
    inference_perf,
    requests,
    row,
)

from roofml.traces import csv_table
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.raw import RawRun
from roofml.traces.read import FORMATS, READERS, read_raw
from roofml.traces.server import FLAGS, Server, ServerOverrides
from roofml.traces.tracev2 import COLUMNS
from roofml.util.errors import InputError, NotSupportedError


def write(tmp_path: Path, **changes: object) -> Path:
    return RunFolder(**changes).write(tmp_path / "a-run")  # pyright: ignore[reportArgumentType]


def codes(run: RawRun) -> list[str]:
    return [finding.code for finding in run.findings]


def refuses(path: Path, *words: str, overrides: ServerOverrides | None = None) -> str:
    """The refusal: one line that names every one of `words`."""
    with pytest.raises(InputError) as caught:
        read_raw(path, overrides or ServerOverrides())
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_reads_a_folder(tmp_path: Path) -> None:
    rows = [row(7, 1000, 20_000, 90_000, 300, 12), row(8, 4000, 30_000, 80_000, 400, 9)]
    run = read_raw(write(tmp_path, rows=rows))
    assert run.name == "a-run"
    assert run.server == Server(MODEL, 1, 128, 2048, 16, 7462, 4096)
    assert run.request_id.tolist() == [7, 8]
    assert run.send_us.tolist() == [0.0, 3000.0]
    assert run.ttft_us.tolist() == [20_000.0, 30_000.0]
    assert run.e2e_us.tolist() == [90_000.0, 80_000.0]
    assert run.input_tokens.tolist() == [300, 400]
    assert run.output_tokens.tolist() == [12, 9]
    assert run.prefix_group.tolist() == [-1, -1]
    assert run.measured.all()
    assert run.generator is None
    assert run.findings == ()


@pytest.mark.parametrize("name", ["trace.csv", "trace.yaml"])
def test_reads_by_either_file(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    assert read_raw(folder / name).name == read_raw(folder).name == "a-run"


def test_files_of_another_name_belong_together(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for suffix in (".csv", ".yaml"):
        (folder / f"trace{suffix}").rename(folder / f"monday{suffix}")
    assert read_raw(folder / "monday.csv").name == "monday"


def test_the_reader_table_holds_the_format() -> None:
    assert FORMATS[0] == "tracev2"
    assert set(FORMATS[1:]) == set(READERS)


def test_importing_readers_stays_light() -> None:
    code = "import sys, roofml.traces.read; print([m for m in ('pandas', 'jax', 'numba', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_generator_settings_are_read(tmp_path: Path) -> None:
    generator = read_raw(write(tmp_path, inference_perf=inference_perf(20, 100))).generator
    assert generator is not None
    assert (generator.prompts, generator.output_tokens, generator.ignore_eos) == (20, 100, True)
    assert (generator.prompts_per_group, generator.system_prompt_tokens) == (10, 64)


@pytest.mark.parametrize(("least", "most", "expected"), [(50, 50, 50), (50, 60, None), (0, 0, None)])
def test_a_generator_with_one_output_length(tmp_path: Path, least: int, most: int, expected: int | None) -> None:
    settings = {"data": {"type": "random", "output_distribution": {"min": least, "max": most}}}
    generator = read_raw(write(tmp_path, inference_perf=settings)).generator
    assert generator is not None
    assert generator.output_tokens == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": {"type": "shared_prefix", "shared_prefix": {"num_groups": 0}}}, ["num_groups", "0"]),
        ({"data": {"type": "shared_prefix", "shared_prefix": {"output_len": True}}}, ["output_len", "True"]),
        ({"data": [1]}, ["data", "mapping"]),
        ({"data": {"type": "shared_prefix", "shared_prefix": {"output_len": 10**30}}}, ["output_len", "at most"]),
        (
            {"data": {"type": "shared_prefix", "shared_prefix": {"num_groups": 10**8, "num_prompts_per_group": 10**8}}},
            ["num_groups x num_prompts_per_group", "at most"],
        ),
        ({"data": {"output_distribution": {"min": 10**30, "max": 10**30}}}, ["output_distribution.min", "at most"]),
        ({"server": {"ignore_eos": "yes"}}, ["server.ignore_eos", "true or false"]),
        ({"server": {"model_name": 7}}, ["server.model_name", "7"]),
    ],
)
def test_generator_settings_that_cannot_be(tmp_path: Path, settings: dict[str, object], words: list[str]) -> None:
    refuses(write(tmp_path, inference_perf=settings), "inference-perf.yaml", *words)


def test_rows_out_of_order_are_sorted_and_said(tmp_path: Path) -> None:
    rows = requests(50)
    run = read_raw(write(tmp_path, rows=rows[25:] + rows[:25]))
    assert run.request_id.tolist() == list(range(50))
    assert (np.diff(run.send_us) >= 0).all()
    assert codes(run) == ["rows-reordered"]


def test_optional_columns_and_version_3(tmp_path: Path) -> None:
    columns = list(COLUMNS)
    columns.insert(columns.index("slo_class") + 1, "vllm_priority")
    columns.insert(columns.index("deadline_us") + 1, "slo_target_us")
    columns += ["x_request_id", "adapter", "think_time_us"]
    rows = [one | {"vllm_priority": 0, "slo_target_us": 5, "adapter": ""} for one in requests(5)]
    keys = {"trace_version": 3, "workload_seed": 1, "workload_spec": "preset:chatbot", "goodput_slo_targets": {}}
    run = read_raw(write(tmp_path, rows=rows, columns=tuple(columns), header=header() | keys))
    assert len(run) == 5
    assert run.findings == ()


def test_warm_up_requests_are_marked(tmp_path: Path) -> None:
    run = read_raw(write(tmp_path, rows=requests(50), header=header() | {"warm_up_requests": 10}))
    assert run.warm_up.sum() == 10
    assert not run.measured[:10].any()
    assert run.measured[10:].all()


def test_failed_rows_need_no_chunks(tmp_path: Path) -> None:
    rows = requests(4)
    rows[1] |= {"status": "error", "first_chunk_time_us": 0, "last_chunk_time_us": 0, "error_message": "a\nb,c"}
    rows[2] |= {"status": "timeout"}
    run = read_raw(write(tmp_path, rows=rows))
    assert run.ok.tolist() == [True, False, False, True]
    assert np.isnan(run.ttft_us).tolist() == [False, True, False, False]
    assert run.failure_messages == ("a b,c",)


def test_escape_codes_in_messages_are_written_out(tmp_path: Path) -> None:
    rows = requests(4)
    rows[1] |= {"status": "error", "error_message": "\x1b]0;title\x07 \u202ereversed\nline"}
    run = read_raw(write(tmp_path, rows=rows))
    assert run.failure_messages == (r"\x1b]0;title\x07 \u202ereversed line",)


def test_prefix_groups_are_numbered(tmp_path: Path) -> None:
    rows = requests(4)
    for place, name in ((1, "b"), (2, "a"), (3, "b")):
        rows[place] |= {"prefix_group": name, "prefix_length": 64}
    run = read_raw(write(tmp_path, rows=rows))
    assert run.prefix_group.tolist() == [-1, 1, 0, 1]


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"mode": "replayed"}, "simulated"),
        ({"network": {"measured_rtt_ms": 1.5}}, "network-in-times"),
        ({"kv_offload": {"cpu_blocks": 5}}, "kv-offload"),
    ],
)
def test_what_the_header_admits(tmp_path: Path, keys: dict[str, object], code: str) -> None:
    assert codes(read_raw(write(tmp_path, header=header() | keys))) == [code]


def test_work_the_replay_does_not_model_is_said(tmp_path: Path) -> None:
    rows = requests(5)
    rows[0]["image_tokens"] = 10
    rows[1]["round_index"] = 2
    (finding,) = read_raw(write(tmp_path, rows=rows)).findings
    assert (finding.code, finding.evidence) == ("not-modelled", {"images": 1, "later rounds of a session": 1})


# The server: folder, then flags, never a guess.


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("num_gpu_blocks", "--num-gpu-blocks"),
        ("max_num_batched_tokens", "--max-num-batched-tokens"),
        ("max_num_seqs", "--max-num-seqs"),
        ("block_size", "--block-size"),
        ("tensor_parallel", "--tp"),
        ("max_model_len", "--max-model-len"),
    ],
)
def test_what_nobody_says_is_asked_for(tmp_path: Path, field: str, flag: str) -> None:
    whole: dict[str, Any] = {"tensor_parallel": 1, "max_num_seqs": 64, "max_num_batched_tokens": 2048, "block_size": 16}
    whole |= {"num_gpu_blocks": 100, "max_model_len": 512}
    head = header()
    head["server"] = {}
    folder = write(tmp_path, header=head, exp_config=None, kv_cache=None)
    del whole[field]
    refuses(folder, field, flag, overrides=ServerOverrides(**whole))


def test_a_lone_trace_with_flags(tmp_path: Path) -> None:
    head = header()
    head["server"] = {}
    folder = write(tmp_path, header=head, exp_config=None, kv_cache=None)
    run = read_raw(folder, ServerOverrides("x/y", 2, 64, 2048, 16, 100, 4096, "H100", False, False))
    assert run.server == Server("x/y", 2, 64, 2048, 16, 100, 4096, "H100", False, False)


def test_the_model_may_come_from_the_rows(tmp_path: Path) -> None:
    head = header()
    del head["server"]["model"]
    settings = exp_config()
    del settings["model"]
    assert read_raw(write(tmp_path, header=head, exp_config=settings)).server.model == MODEL


def test_a_flag_overrules_the_folder_and_is_reported(tmp_path: Path) -> None:
    run = read_raw(write(tmp_path), ServerOverrides(max_num_seqs=64, block_size=16))
    assert run.server.max_num_seqs == 64
    (finding,) = run.findings
    assert finding.code == "flag-overrules-file"
    assert "exp-config.yaml says 128" in finding.summary


def test_files_that_disagree(tmp_path: Path) -> None:
    folder = write(tmp_path, exp_config=exp_config() | {"max_model_len": 8192})
    refuses(folder, "max_model_len", "trace.yaml says 4096", "exp-config.yaml says 8192", "--max-model-len")
    assert read_raw(folder, ServerOverrides(max_model_len=8192)).server.max_model_len == 8192


def test_a_name_mentioned_in_passing_may_be_an_alias(tmp_path: Path) -> None:
    settings = inference_perf()
    settings["server"]["model_name"] = "my-alias"
    assert codes(read_raw(write(tmp_path, inference_perf=settings))) == ["server-name-differs"]


def test_engine_switches_are_read_from_exp_config(tmp_path: Path) -> None:
    settings = exp_config() | {"prefix_caching": False, "async_scheduling": False, "gpu": "H100"}
    server = read_raw(write(tmp_path, exp_config=settings)).server
    assert (server.prefix_caching, server.async_scheduling, server.gpu) == (False, False, "H100")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_num_seqs": 0}, ["max_num_seqs", "0", "whole number above 0"]),
        ({"max_num_seqs": "many"}, ["max_num_seqs", "'many'"]),
        ({"max_num_seqs": None}, ["max_num_seqs", "no value"]),
        ({"max_num_seqs": float("nan")}, ["max_num_seqs"]),
        ({"max_num_seqs": 5 * 10**8}, ["max_num_seqs", "at most"]),
        ({"max_num_batched_tokens": 5 * 10**8}, ["max_num_batched_tokens", "at most"]),
        ({"num_gpu_blocks": 2 * 10**9}, ["num_gpu_blocks", "at most"]),
        ({"max_model_len": 10**30}, ["max_model_len", "at most"]),
        ({"block_size": 10**30}, ["block_size", "at most"]),
        ({"tensor_parallelism": 10**30}, ["tensor_parallel", "at most"]),
        ({"gpu": 7}, ["gpu", "expected a name"]),
        ({"prefix_caching": "on"}, ["prefix_caching", "true or false"]),
        ({"pipeline_parallelism": 2}, ["pipeline_parallelism", "2"]),
    ],
)
def test_exp_config_values_that_cannot_be(tmp_path: Path, settings: dict[str, object], words: list[str]) -> None:
    refuses(write(tmp_path, exp_config=exp_config() | settings), "exp-config.yaml", *words)


@pytest.mark.parametrize("field", [field for field in FLAGS if field in MOST_OF_SERVER])
@pytest.mark.parametrize("value", [5 * 10**8, 10**30, 10**400])
def test_huge_flags_name_the_flag(field: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"^{FLAGS[field]}: .*, expected at most {MOST_OF_SERVER[field]}$"):
        ServerOverrides(**{field: value})  # pyright: ignore[reportArgumentType]


def test_what_any_server_has_is_within_the_limits() -> None:
    ServerOverrides("x/y", 64, 8192, 1_048_576, 2096, 11_000_000, 10_485_760, "H200", output_tokens=1_000_000)


@pytest.mark.parametrize("wrong", [{"tensor_parallel": 0}, {"output_tokens": -1}, {"gpu": ""}, {"block_size": True}])
def test_flags_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="--"):
        ServerOverrides(**wrong)  # pyright: ignore[reportArgumentType]


# Broken headers.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trace_version": 1}, ["trace_version", "1", "2 or 3"]),
        ({"trace_version": True}, ["trace_version"]),
        ({"time_unit": "ms"}, ["time_unit", "'ms'", "us"]),
        ({"mode": "dreamt"}, ["mode", "dreamt", "real"]),
        ({"warm_up_requests": -1}, ["warm_up_requests", "-1"]),
        ({"warm_up_requests": 10**30}, ["warm_up_requests", "a whole number from 0"]),
        *(
            ({"network": {"measured_rtt_ms": rtt}}, ["network.measured_rtt_ms", "a number of ms from 0 to 60000"])
            for rtt in (float("inf"), float("nan"), -1.0, 1e9, 10**30, True, "1.5", [1])
        ),
        ({"colour": "red"}, ["unknown key colour"]),
        ({"\x1b[31mcol\nour": "red"}, ["unknown key \\x1b[31mcol our"]),
        ({"server": [1]}, ["server", "mapping"]),
        ({"server": {"colour": 1}}, ["unknown key server.colour"]),
        ({"server": {"type": "tgi"}}, ["engine", "tgi", "vllm, sglang, tensorrt-llm"]),
    ],
)
def test_headers_refused(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    refuses(write(tmp_path, header=header() | change), "trace.yaml", *words)


@pytest.mark.parametrize("key", ["trace_version", "time_unit", "mode", "warm_up_requests"])
def test_header_keys_required(tmp_path: Path, key: str) -> None:
    head = header()
    del head[key]
    refuses(write(tmp_path, header=head), "trace.yaml", f"{key} is missing")


@pytest.mark.parametrize("name", ["trace.yaml", "exp-config.yaml", "kv-cache.yaml", "inference-perf.yaml"])
def test_alias_bombs_are_refused_in_every_file(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, inference_perf=inference_perf())
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abc", "bcd", strict=True)
    )
    (folder / name).write_text(bomb)
    refuses(folder, name, "aliases")


# Broken tables.


def cell(column: str, value: object, place: int = 3) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        rows[place][column] = value

    return change


@pytest.mark.parametrize("value", ["-5", "1.5", "nan", "inf", "", "x", "1_0", " 7", "٣", "9" * 30, "0x10"])
@pytest.mark.parametrize("column", ["input_tokens", "send_time_us", "request_id"])
def test_cells_that_are_no_whole_numbers(tmp_path: Path, column: str, value: str) -> None:
    rows = requests(6)
    rows[3][column] = value
    refuses(write(tmp_path, rows=rows), "trace.csv", "line 5", column, "whole number")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cell("request_id", 1), ["line 5", "request_id 1", "line 3"]),
        (cell("status", "fine"), ["line 5", "status", "'fine'", "ok, error, timeout"]),
        (cell("streaming", "maybe"), ["line 5", "streaming", "true, false"]),
        (cell("model", "another/model"), ["model", "2 different"]),
    ],
)
def test_rows_refused(tmp_path: Path, change: Callable[[list[Row]], None], words: list[str]) -> None:
    rows = requests(6)
    change(rows)
    refuses(write(tmp_path, rows=rows), "trace.csv", *words)


@pytest.mark.parametrize("column", ["input_tokens", "server_input_tokens", "output_tokens", "prefix_length"])
def test_more_tokens_than_any_request_has(tmp_path: Path, column: str) -> None:
    rows = requests(6)
    rows[3][column] = 10**17
    refuses(write(tmp_path, rows=rows), "trace.csv", "line 5", column, "at most 100000000")


def test_a_long_name_of_a_prefix_group_takes_no_memory(tmp_path: Path) -> None:
    rows = requests(3000)
    rows[7]["prefix_group"] = "x" * 100_000
    assert read_raw(write(tmp_path, rows=rows)).prefix_group[7] == 0


def test_more_requests_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "MOST_REQUESTS", 5)
    refuses(write(tmp_path, rows=requests(6)), "trace.csv", "more than 5 requests")
    table = write(tmp_path, rows=requests(5)) / "trace.csv"
    table.write_text(table.read_text() + "\n" * 6)
    refuses(table, "more than 10 lines")


def test_no_successful_request(tmp_path: Path) -> None:
    refuses(write(tmp_path, rows=[one | {"status": "error"} for one in requests(6)]), "no successful request among 6")


@pytest.mark.parametrize("change", [{"warm_up_requests": 100}, {}])
def test_nothing_left_to_measure(tmp_path: Path, change: dict[str, object]) -> None:
    rows = [one | ({} if change else {"streaming": "false"}) for one in requests(6)]
    refuses(write(tmp_path, rows=rows, header=header() | change), "after warm-up")


def test_nothing_was_sent(tmp_path: Path) -> None:
    refuses(write(tmp_path, rows=[one | {"send_time_us": 0} for one in requests(6)]), "send_time_us is 0 in every row")


def test_missing_extra_and_moved_columns(tmp_path: Path) -> None:
    without = tuple(column for column in COLUMNS if column != "num_chunks")
    refuses(write(tmp_path, columns=without), "line 1", "num_chunks is missing")
    refuses(write(tmp_path, columns=(*COLUMNS, "mood")), "line 1", "unknown column 'mood'")
    refuses(write(tmp_path, columns=(*COLUMNS, "status")), "status stands twice")
    refuses(write(tmp_path, columns=(COLUMNS[1], COLUMNS[0], *COLUMNS[2:])), "column 1 is client_id")
    refuses(write(tmp_path, columns=("vllm_priority", *COLUMNS)), "column 1 is vllm_priority")
    refuses(write(tmp_path, columns=("id", "when", "what")), "not a TraceV2 header line")


def test_truncated_file(tmp_path: Path) -> None:
    table = write(tmp_path, rows=requests(6)) / "trace.csv"
    text = table.read_text()
    table.write_text(text[: text.rindex(",ok,")])
    refuses(table, "line 7", "cells, expected 27", "cut short")


def test_a_short_row_in_the_middle(tmp_path: Path) -> None:
    table = write(tmp_path, rows=requests(6)) / "trace.csv"
    lines = table.read_text().splitlines()
    lines[3] = "3,4"
    table.write_text("\n".join(lines))
    assert "cut short" not in refuses(table, "line 4", "2 cells, expected 27")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\n \n", ["empty"]),
        (bytes(range(256)) * 10, ["not UTF-8"]),
        (b"\0\0\0\0", ["zero bytes"]),
        (",".join(COLUMNS).encode(), ["no rows"]),
        (b'"unclosed', ["line 1", "not valid CSV"]),
        (",".join(COLUMNS).encode() + b"\n" + bytes(10**6), ["zero bytes"]),
        (",".join(COLUMNS).encode() + b"\n" + b"1" * 10**6, ["line 2", "longer than"]),
        (",".join(COLUMNS).encode() + b"\n" + b"1," * 40_000 + b"\0", ["line 2", "zero bytes"]),
        (",".join(COLUMNS).encode() + b"\n" + b"1," * 40_000 + b"\xff", ["not UTF-8 text (after line"]),
        (b" " * 10**6, ["empty"]),
        (b"{}", ["not a TraceV2 header line"]),
    ],
)
def test_garbage(tmp_path: Path, content: bytes, words: list[str]) -> None:
    folder = write(tmp_path)
    (folder / "trace.csv").write_bytes(content)
    refuses(folder, "trace.csv", *words)


def test_missing_files(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "nowhere", "no such file or folder")
    refuses(tmp_path, "not a run", "tracev2")
    (tmp_path / "notes.txt").write_text("hello")
    refuses(tmp_path / "notes.txt", "not a run")
    for name in ("trace.csv", "trace.yaml"):
        folder = write(tmp_path / name)
        (folder / name).unlink()
        refuses(folder, name, "no such file")


def test_unsupported_is_still_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError):
        read_raw(write(tmp_path, exp_config=exp_config() | {"data_parallelism": 4}))


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    number = draw(st.integers(1, 12))
    ids = draw(st.lists(st.integers(0, 10**6), min_size=number, max_size=number, unique=True))
    tokens = st.integers(1, 10**8)
    start = draw(st.integers(1, 2 * 10**15))
    rows: list[Row] = []
    for one in ids:
        ttft, rest = draw(st.integers(10**4, 10**6)), draw(st.integers(10**7, 5 * 10**7))
        send, prompt, output = start + draw(st.integers(0, 10**10)), draw(tokens), draw(tokens)
        rows.append(
            row(one, send, ttft, ttft + rest, prompt, output, error_message=draw(st.sampled_from(["", 'a "b",\nc'])))
        )
    return rows


@given(rows=some_rows())
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    run = read_raw(RunFolder(rows=rows).write(tmp_path_factory.mktemp("run")))
    by_id = {int(str(one["request_id"])): one for one in rows}
    first = min(int(str(one["send_time_us"])) for one in rows)
    assert sorted(run.request_id.tolist()) == sorted(by_id)
    assert (np.diff(run.send_us) >= 0).all()
    for place, request in enumerate(run.request_id.tolist()):
        one = by_id[request]
        assert run.send_us[place] == int(str(one["send_time_us"])) - first
        assert run.ttft_us[place] == int(str(one["first_chunk_time_us"])) - int(str(one["send_time_us"]))
        assert run.e2e_us[place] == int(str(one["last_chunk_time_us"])) - int(str(one["send_time_us"]))
        assert run.input_tokens[place] == one["input_tokens"]
        assert run.output_tokens[place] == one["output_tokens"]


@given(content=st.binary(max_size=300), name=st.sampled_from(["trace.csv", "trace.yaml", "exp-config.yaml"]))
@settings(max_examples=60, deadline=None)
def test_no_content_escapes_as_another_error(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = RunFolder(rows=requests(3)).write(tmp_path_factory.mktemp("run"))
    (folder / name).write_bytes(content)
    try:
        read_raw(folder)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  # valid content is no failure either


def test_real_runs_read(shared: Path) -> None:
    for folder in eleven_runs(shared):
        run = read_raw(folder)
        assert run.measured.all()
        assert run.generator is not None
        assert run.generator.prompts == 100
        assert run.server.max_num_batched_tokens == 2048
        assert run.findings == ()


def test_a_real_run_of_failures_reads(shared: Path) -> None:
    """What failed has no chunk: it is no reason to refuse the rest."""
    run = read_raw(shared / "groundtruth" / OVERLOADED)
    assert (run.measured == run.ok).all()
    assert int((~run.ok).sum()) > 2000
    assert np.isnan(run.e2e_us[~run.ok]).all()
    assert run.findings == ()


def test_reading_is_quick(shared: Path) -> None:
    folder = shared / "groundtruth" / "20260217-231439-llama-2-7b-tp1-general"
    assert_within(best_s(lambda: read_raw(folder), 3), 0.5)
