"""Reading: formats by content, folders as one thing, and what files beside a run tell of its server."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import SERVER, Served, vllm_bench, write
from runfolder import RunFolder, requests

from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.read import kind_of_path, read_all, read_raw, read_run, read_runs
from roofml.traces.run import Run
from roofml.traces.selection import trainable
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

LOG = (
    "INFO 01-01 00:00:00 [api_server.py:1] vLLM API server version 0.15.1\n"
    "INFO 01-01 00:00:01 [core.py:1] Initializing a V1 LLM engine (v0.15.1) with config: "
    "model='meta-llama/Llama-2-7b-hf', dtype=torch.bfloat16, max_seq_len=4096, tensor_parallel_size=1, "
    "enable_prefix_caching=True\n"
    "INFO 01-01 00:00:02 [scheduler.py:1] Chunked prefill is enabled with max_num_batched_tokens=2048.\n"
    "INFO 01-01 00:00:03 [kv_cache_utils.py:1] GPU KV cache size: 119,392 tokens\n"
    "INFO 01-01 00:00:03 [kv_cache_utils.py:1] Maximum concurrency for 4,096 tokens per request: 29.15x\n"
)
SERVER_FLAGS = ServerOverrides(gpu="H100", max_num_seqs=128)


def everything(*paths: Path, overrides: ServerOverrides | None = None) -> list[Any]:
    return list(read_all(list(paths), overrides or ServerOverrides(), strict=False, complete=False).every)


@pytest.mark.parametrize("name", ["bench.json", "bench.txt", "trace.csv", "nothing"])
def test_what_a_file_is_called_says_nothing(tmp_path: Path, name: str) -> None:
    (run,) = everything(write(tmp_path / name, vllm_bench(Served())))
    assert isinstance(run, Run)
    assert run.to_dict()["format"] == "vllm-bench"


def test_a_tracev2_pair_is_read_compressed(tmp_path: Path) -> None:
    plain = RunFolder(rows=requests(60)).write(tmp_path / "plain")
    packed = RunFolder(rows=requests(60)).write(tmp_path / "packed")
    for name in ("trace.csv", "trace.yaml"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((packed / name).read_bytes()))
        (packed / name).unlink()
    one, two = read_run(plain), read_run(packed)
    assert one.identity == two.identity
    assert two.name == "packed"
    assert read_run(packed / "trace.csv.gz").identity == one.identity


def test_a_run_of_each_format_says_what_its_file_says(tmp_path: Path) -> None:
    served = Served()
    bench = write(tmp_path / "bench.json", vllm_bench(served))
    folder = RunFolder(rows=requests(60)).write(tmp_path / "run")
    runs = read_all([bench, folder], strict=False, complete=False)
    assert [run.to_dict()["format"] for run in runs.every] == ["vllm-bench", "tracev2"]


def test_the_log_beside_a_run_tells_of_its_server(tmp_path: Path) -> None:
    path = write(tmp_path / "bench.json", vllm_bench(Served()))
    (tmp_path / "server.log").write_text(LOG)
    run = read_all([path], SERVER_FLAGS).runs[0]
    assert (run.server.engine_version, run.server.max_num_batched_tokens) == ("0.15.1", 2048)
    assert run.server.num_gpu_blocks == 119_392 // 16
    assert run.server.said_by["num_gpu_blocks"] == "server.log"
    assert run.server.said_by["gpu"] == "--gpu"
    (whole,) = read_all([tmp_path], SERVER_FLAGS).runs
    assert whole.server == run.server


def test_a_log_given_with_runs_is_of_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "yesterday.txt"
    log.write_text(LOG)
    paths = [write(tmp_path / f"{name}.json", vllm_bench(Served(seed=seed))) for seed, name in enumerate("ab")]
    reading = read_all([*paths, log], SERVER_FLAGS)
    assert [run.server.engine_version for run in reading.runs] == ["0.15.1", "0.15.1"]
    assert reading.servers == []


def test_a_log_alone_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(LOG)
    reading = read_all([tmp_path / "server.log"], complete=False)
    assert (reading.every, len(reading.servers)) == ([], 1)
    with pytest.raises(InputError, match="not a run, but what a server was told"):
        read_runs([tmp_path / "server.log"])


def test_of_several_logs_the_one_of_the_runs_name_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "c4_bench.json", vllm_bench(Served()))
    (tmp_path / "c4_server.log").write_text(LOG)
    (tmp_path / "c8_server.log").write_text(LOG.replace("2048", "8192"))
    assert read_all([path], SERVER_FLAGS).runs[0].server.max_num_batched_tokens == 2048
    (tmp_path / "c4_server.log").rename(tmp_path / "other.log")
    (run,) = everything(path)
    assert "max_num_batched_tokens" in run.server.missing
    assert "server-files-unclear" in {finding.code for finding in run.findings}


def test_what_merely_lies_beside_a_file_may_be_of_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "bench.json", vllm_bench(Served()))
    (tmp_path / "other.log").write_text(LOG.replace("Llama-2-7b-hf", "Mistral-7B-v0.1"))
    (run,) = everything(path)
    assert "num_gpu_blocks" in run.server.missing
    (tmp_path / "other.log").write_text(LOG)
    assert "num_gpu_blocks" not in everything(path)[0].server.missing
    (tmp_path / "other.log").write_text(LOG.replace("GPU KV cache size", "nothing"))  # a server that never started
    (run,) = everything(path)
    assert isinstance(run, Run)
    (folder_run,) = everything(tmp_path)
    assert isinstance(folder_run, RefusedRun)


def test_what_nobody_says_is_null_and_listed(tmp_path: Path) -> None:
    (run,) = everything(write(tmp_path / "bench.json", vllm_bench(Served())))
    told = run.to_dict()
    assert told["server"]["num_gpu_blocks"] is None
    assert {"tensor_parallel", "num_gpu_blocks", "max_model_len", "gpu", "engine_version"} <= set(told["missing"])
    assert (told["tp"], told["gpu"]) == (None, None)
    with pytest.raises(InputError, match=r"bench\.json: tensor_parallel, .*give --tp N .*--gpu GPU"):
        read_run(tmp_path / "bench.json")


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for seed in range(3):
        write(tmp_path / "results" / f"rate{seed}.json", vllm_bench(Served(seed=seed)))
    (tmp_path / "server.log").write_text(LOG)
    (tmp_path / "notes.md").write_text("hello")
    runs = everything(tmp_path)
    assert [run.name for run in runs] == ["rate0", "rate1", "rate2"]
    assert {run.server.engine_version for run in runs} == {"0.15.1"}
    with pytest.raises(InputError, match="3 runs in it, expected one"):
        read_raw(tmp_path, ServerOverrides(**SERVER))


def test_a_refused_run_costs_no_other_of_its_file(tmp_path: Path) -> None:
    failed = {key: value for key, value in vllm_bench(Served(), completed=0).items() if not isinstance(value, list)}
    path = tmp_path / "bench.json"
    path.write_text("\n".join(map(json.dumps, [vllm_bench(Served()), failed])))
    kinds = [type(run) for run in everything(path)]
    assert kinds == [Run, RefusedRun]
    assert len(read_runs([path], ServerOverrides(**SERVER))) == 1
    path.write_text(json.dumps(failed))
    with pytest.raises(InputError, match="all 60 requests failed"):
        read_runs([path])


def test_a_run_that_no_fit_may_see_is_refused_with_the_reason(tmp_path: Path) -> None:
    document = vllm_bench(Served())
    document |= {key: value[:40] for key, value in document.items() if isinstance(value, list)}
    runs = read_runs([write(tmp_path / "bench.json", document)], ServerOverrides(**SERVER))
    with pytest.raises(InputError, match="bench: cannot be fitted on: 40 of 60 requests"):
        trainable(runs)


def test_the_same_recording_under_two_names_is_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.json", vllm_bench(Served())) for name in "ab"]
    _, second = everything(*paths)
    assert "same-recording" in {finding.code for finding in second.findings}


def test_what_is_nothing_is_a_run_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    assert kind_of_path(tmp_path / "x") == "run"
    with pytest.raises(InputError, match=r"not a run; expected .* vllm-bench"):
        read_runs([tmp_path / "x"])


def test_means_of_two_files_are_two_runs(tmp_path: Path) -> None:
    document = {key: value for key, value in vllm_bench(Served()).items() if not isinstance(value, list)}
    runs = everything(*(write(tmp_path / f"{name}.json", document | {"request_rate": 2.0}) for name in "ab"))
    assert all(isinstance(run, AggregateRun) for run in runs)
    assert [run.name for run in runs] == ["a", "b"]


def test_arrays_are_in_order_of_sending_and_begin_at_zero(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "bench.json", vllm_bench(Served())), **SERVER)
    assert run.arrival_us[0] == 0
    assert (np.diff(run.arrival_us) >= 0).all()
