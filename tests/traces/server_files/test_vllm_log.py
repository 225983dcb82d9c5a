"""vLLM's log: what a server was told and found at its start, however the log reached us."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from roofml.traces.server_files import vllm_log
from roofml.util.errors import InputError

CONFIG = (
    "model='acme/Model-7B', speculative_config=None, tokenizer='acme/Model-7B', dtype=torch.bfloat16, "
    "max_seq_len=4096, tensor_parallel_size=2, pipeline_parallel_size=1, data_parallel_size=1, quantization=None, "
    "enforce_eager=False, "
    "kv_cache_dtype=auto, device_config=cuda, decoding_config=DecodingConfig(backend='auto', dtype=1), seed=0, "
    "served_model_name=acme/Model-7B, enable_prefix_caching=True, enable_chunked_prefill=True, "
    "compilation_config={'level': None, 'mode': <CompilationMode.VLLM_COMPILE: 3>, 'custom_ops': ['none'], "
    "'cudagraph_capture_sizes': [1, 2, 4, 8], 'max_cudagraph_capture_size': 8}"
)
ASKED = "{'model_tag': 'acme/Model-7B', 'model': 'acme/Model-7B', 'max_num_seqs': 64, 'tensor_parallel_size': 2}"
API, CORE = "(APIServer pid=11) ", "(EngineCore_DP0 pid=22) "


def log(
    config: str = CONFIG,
    asked: str = ASKED,
    tokens: tuple[str, ...] = ("152,336",),
    concurrency: str = "37.19x",
    version: str = "0.15.1",
    tag: str = "a V1",
) -> list[str]:
    """Lines of a start-up log."""
    when = "INFO 02-26 06:50:32 "
    lines = [
        "some output of the job",
        f"{API}{when}[utils.py:261] non-default args: {asked}",
        f"{API}{when}[scheduler.py:226] Chunked prefill is enabled with max_num_batched_tokens=2048.",
        f"{API}{when}[vllm.py:624] Asynchronous scheduling is enabled.",
        f"{CORE}{when}[core.py:96] Initializing {tag} LLM engine (v{version}) with config: {config}",
        f"{CORE}{when}[cuda.py:364] Using FLASH_ATTN attention backend out of potential backends: ('FLASH_ATTN',)",
    ]
    for count in tokens:
        lines.append(f"{CORE}{when}[kv_cache_utils.py:1307] GPU KV cache size: {count} tokens")
        lines.append(
            f"{CORE}{when}[kv_cache_utils.py:1312] Maximum concurrency for 4,096 tokens per request: {concurrency}"
        )
    return [*lines, '(APIServer pid=11) INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK']


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "server.out"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


EXPECTED = {
    "engine": "vllm",
    "engine_version": "0.15.1",
    "model": "acme/Model-7B",
    "tensor_parallel": 2,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "max_model_len": 4096,
    "block_size": 16,
    "num_gpu_blocks": 9521,
    "prefix_caching": True,
    "async_scheduling": True,
    "kv_dtype": "auto",
    "dtype": "bfloat16",
    "cudagraph_capture_sizes": [1, 2, 4, 8],
    "attention_backend": "FLASH_ATTN",
}


def wrapped(lines: list[str], width: int) -> list[str]:
    """The lines as a terminal of this width shows them."""
    return [line[place : place + width] for line in lines for place in range(0, len(line), width)]


def coloured(lines: list[str]) -> list[str]:
    return [line.replace("(", "\x1b[0;36m(", 1).replace(") ", ")\x1b[0;0m ", 1) for line in lines]


@pytest.mark.parametrize(
    "lines",
    [
        log(),
        coloured(log()),
        wrapped(log(), 147),
        wrapped(log(), 80),
        wrapped(log(), 97),
        [line.rstrip() for line in wrapped(log(), 120)],
        [f"vllm-1  | {line}" for line in log()],
        [f"2026-02-26T06:50:32.123456Z {line}" for line in log()],
        [line.removeprefix(API).removeprefix(CORE) for line in log()],
    ],
    ids=["plain", "colours", "147", "80", "97", "trimmed", "compose", "kubernetes", "one process"],
)
def test_a_log_says_the_same_however_it_was_kept(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path, lines)
    assert vllm_log.detect(path)
    said = vllm_log.facts(path)
    assert {name: said.facts.get(name) for name in EXPECTED} == EXPECTED
    assert said.refused is None
    assert not said.findings


def test_the_smallest_cache_of_the_workers_counts(tmp_path: Path) -> None:
    lines = log(tokens=("1,192,160", "1,192,144", "1,192,160"), concurrency="291.05x")
    said = vllm_log.facts(write(tmp_path, lines))
    assert said.facts["kv_cache_tokens"] == 1_192_144
    assert said.facts["num_gpu_blocks"] == 74_509
    assert [finding.code for finding in said.findings] == ["kv-cache-by-worker"]


@pytest.mark.parametrize(("tokens", "concurrency"), [("1,399,712", "27.81x"), ("825,607", "201.56x")])
def test_tokens_of_mixed_layers_are_no_block_count(tmp_path: Path, tokens: str, concurrency: str) -> None:
    said = vllm_log.facts(write(tmp_path, log(tokens=(tokens,), concurrency=concurrency)))
    assert "num_gpu_blocks" not in said.facts
    assert said.facts["kv_cache_tokens"] == int(tokens.replace(",", ""))
    assert [finding.code for finding in said.findings] == ["kv-tokens-not-blocks"]


def test_a_server_that_never_started_is_refused_with_its_error(tmp_path: Path) -> None:
    failed = f"{CORE}ERROR 02-26 06:50:33 [core.py:1231] ValueError: No available memory for the cache blocks."
    end = f"{CORE}ERROR 02-26 06:50:34 [core.py:1] RuntimeError: Engine core initialization failed. See above."
    said = vllm_log.facts(write(tmp_path, [*log(tokens=()), failed, end]))
    assert said.refused == (
        "the server never started: no line gives the size of its KV cache: "
        "ValueError: No available memory for the cache blocks."
    )


def test_the_old_engine_is_refused(tmp_path: Path) -> None:
    said = vllm_log.facts(write(tmp_path, log(tag="a V0", version="0.8.2")))
    assert said.refused is not None
    assert "V0 engine" in said.refused


def test_a_cpu_is_refused(tmp_path: Path) -> None:
    said = vllm_log.facts(write(tmp_path, log(config=CONFIG.replace("device_config=cuda", "device_config=cpu"))))
    assert said.refused == "the server ran on a CPU (device_config=cpu), expected a GPU"


def test_speculation_is_said(tmp_path: Path) -> None:
    config = CONFIG.replace("speculative_config=None", "speculative_config=SpeculativeConfig(method='mtp', num=3)")
    said = vllm_log.facts(write(tmp_path, log(config=config)))
    assert said.facts["speculative_config"] == "SpeculativeConfig(method='mtp', num=3)"


def test_the_name_in_the_hubs_cache_is_the_models(tmp_path: Path) -> None:
    path = "/cache/hub/models--acme--Model-7B/snapshots/cf98f3"
    said = vllm_log.facts(write(tmp_path, log(config=CONFIG.replace("acme/Model-7B", path), asked="{'port': 1}")))
    assert said.facts["model"] == "acme/Model-7B"


def test_arguments_as_objects_do_not_hide_the_others(tmp_path: Path) -> None:
    asked = "{'path': PosixPath('/a, b'), 'enable_lora': True, 'max_num_seqs': 7, 'note': \"it's, {fine\"}"
    said = vllm_log.facts(write(tmp_path, log(asked=asked)))
    assert said.facts["max_num_seqs"] == 7
    assert [finding.code for finding in said.findings] == ["server-setting-not-read"]


def test_all_arguments_of_an_old_release_are_a_namespace(tmp_path: Path) -> None:
    line = (
        "INFO 02-26 06:50:31 api_server.py:712] args: Namespace(host=None, model='acme/Old', max_num_seqs=9, ssl=False)"
    )
    said = vllm_log.facts(write(tmp_path, [line, "INFO 01-30 03:19:14 kv_cache_utils.py:395] # GPU blocks: 1381"]))
    assert (said.facts["model"], said.facts["max_num_seqs"], said.facts["num_gpu_blocks"]) == ("acme/Old", 9, 1381)


@pytest.mark.parametrize(
    ("lines", "gpu"),
    [
        (["0, NVIDIA H100 80GB HBM3, 81559 MiB, 535.86"] * 4, "H100 80GB HBM3"),
        (["NVIDIA H100, 81559 MiB, 535.86"], "H100"),
        (["NVIDIA H100, 65247 MiB, 535.86"], "H100-64GB"),
        (["NVIDIA L40S, 46068 MiB"], "L40S"),
        (
            [f"{CORE}WARNING 02-26 06:50:33 [fused_moe.py:1] no config at /x/E=8,N=1,device_name=NVIDIA_H200.json"],
            "NVIDIA_H200",
        ),
        (["NVIDIA H200, 143771 MiB", "NVIDIA L4, 23034 MiB"], None),
    ],
)
def test_the_gpu_is_what_the_output_names(tmp_path: Path, lines: list[str], gpu: str | None) -> None:
    said = vllm_log.facts(write(tmp_path, [*lines, *log()]))
    assert said.facts.get("gpu") == gpu
    assert ["several-gpus" in finding.code for finding in said.findings] == ([] if gpu else [True])


def test_another_start_counts_and_is_told(tmp_path: Path) -> None:
    second = log(config=CONFIG.replace("max_seq_len=4096", "max_seq_len=8192"))
    said = vllm_log.facts(write(tmp_path, [*log(tokens=("99,200",), concurrency="24.22x"), *second]))
    assert (said.facts["max_model_len"], said.facts["num_gpu_blocks"]) == (8192, 9521)
    assert [finding.code for finding in said.findings] == ["several-starts"]


def test_periodic_statistics_are_counted(tmp_path: Path) -> None:
    stats = (
        f"{API}INFO 06-10 21:57:27 [loggers.py:271] Engine 000: Avg prompt throughput: 464.2 tokens/s, Avg generation "
    )
    stats += "throughput: 575.1 tokens/s, Running: {} reqs, Waiting: {} reqs, GPU KV cache usage: 0.1%"
    said = vllm_log.facts(write(tmp_path, [*log(), stats.format(4, 0), stats.format(9, 2)]))
    assert dict(said.observed) == {"stats_lines": 2, "max_running": 9, "max_waiting": 2}


@pytest.mark.parametrize("text", ["", "nothing\n" * 100, '{"a": 1}', "INFO:     Started server process [1]\n"])
def test_other_files_are_no_log(tmp_path: Path, text: str) -> None:
    assert not vllm_log.detect(write(tmp_path, [text]))


def test_a_cut_or_hostile_log_says_what_it_says(tmp_path: Path) -> None:
    lines = log()
    cut = "\n".join(lines[:5])[:-900]
    for content in (cut.encode(), cut.encode() + b"\xff\x00\xfe" * 50, ("(" * 5000 + "\n" + "\n".join(lines)).encode()):
        path = tmp_path / "cut.log"
        path.write_bytes(content)
        assert vllm_log.facts(path).facts["max_num_seqs"] == 64
    deep = tmp_path / "deep.log"
    deep.write_text("\n".join(log(asked="{'model': " + "[" * 90_000 + "}")))
    assert vllm_log.facts(deep).facts["engine_version"] == "0.15.1"


def test_a_compressed_log_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "server.log.gz"
    path.write_bytes(gzip.compress("\n".join(log()).encode()))
    assert vllm_log.detect(path)
    assert vllm_log.facts(path).facts["num_gpu_blocks"] == 9521


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    assert not vllm_log.detect(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        vllm_log.facts(tmp_path)
