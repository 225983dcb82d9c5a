"""A small synthetic run folder to read: a toy server whose step takes longer with more requests in flight."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.tracev2 import COLUMNS

MODEL = "meta-llama/Llama-2-7b-hf"
OVERLOADED = "20260217-170634-llama-2-7b-tp1-reasoning"
"""A real run that came later than the published figures: saturated, and thousands of its requests failed."""

Row = dict[str, object]


def header() -> dict[str, Any]:
    server = {"type": "vllm", "model": MODEL, "tensor_parallel": 1, "max_num_seqs": 128, "block_size": 16}
    server |= {"gpu_memory_utilization": 0.9, "max_model_len": 4096}
    return {"trace_version": 2, "time_unit": "us", "mode": "real", "warm_up_requests": 0, "server": server}


def exp_config() -> dict[str, Any]:
    settings = {"model": MODEL, "tensor_parallelism": 1, "max_model_len": 4096, "max_num_batched_tokens": 2048}
    return settings | {"max_num_seqs": 128, "app": "inference-perf"}


def inference_perf(prompts: int = 20, output_tokens: int = 100, ignore_eos: bool = True) -> dict[str, Any]:
    shared = {"num_groups": 2, "num_prompts_per_group": prompts // 2, "system_prompt_len": 64}
    shared |= {"question_len": 300, "output_len": output_tokens}
    return {
        "data": {"type": "shared_prefix", "shared_prefix": shared},
        "load": {"type": "constant"},
        "server": {"type": "vllm", "model_name": MODEL, "ignore_eos": ignore_eos},
    }


def row(request: int, send_us: int, ttft_us: int, e2e_us: int, prompt: int, output: int, **changes: object) -> Row:
    cells: Row = dict.fromkeys(COLUMNS, "")
    numbers = ("round_index", "prefix_length", "image_tokens", "audio_tokens", "video_tokens", "reason_ratio")
    cells |= dict.fromkeys((*numbers, "deadline_us", "server_input_tokens", "num_chunks"), 0)
    cells |= {"request_id": request, "streaming": "true", "input_tokens": prompt, "output_tokens": output}
    cells |= {"text_tokens": prompt, "model": MODEL, "arrival_time_us": send_us, "send_time_us": send_us}
    cells |= {"first_chunk_time_us": send_us + ttft_us, "last_chunk_time_us": send_us + e2e_us, "status": "ok"}
    return cells | changes


def requests(number: int = 200, seed: int = 0, prompts: int = 0, output: int = 0, rate: float = 8.0) -> list[Row]:
    """Requests of a quiet server. `prompts` > 0: so many in turn, else all different; `output` 0: all lengths."""
    random = np.random.default_rng(seed)
    sends = np.cumsum(random.exponential(1e6 / rate, number)).astype(int)
    lengths = random.integers(200, 900, prompts or number)
    outputs = random.integers(20, 300, number) if output == 0 else np.full(number, output)
    noise = random.normal(1.0, 0.03, number)
    rows: list[Row] = []
    for i in range(number):
        ttft = int(20_000 + 50 * random.random())
        e2e = ttft + int(8_000 * (outputs[i] - 1) * noise[i])
        rows.append(row(i, int(sends[i]), ttft, e2e, int(lengths[i % len(lengths)]), int(outputs[i])))
    return rows


@dataclass
class RunFolder:
    """What to write; None leaves the file out."""

    rows: list[Row] = field(default_factory=requests)
    header: dict[str, Any] | None = field(default_factory=header)
    exp_config: dict[str, Any] | None = field(default_factory=exp_config)
    inference_perf: dict[str, Any] | None = None
    kv_cache: dict[str, Any] | None = field(default_factory=lambda: {"block_size": 16, "num_gpu_blocks": 7462})
    columns: tuple[str, ...] = COLUMNS

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        files = {"trace": self.header, "exp-config": self.exp_config, "inference-perf": self.inference_perf}
        for name, content in (files | {"kv-cache": self.kv_cache}).items():
            if content is not None:
                # JSON is YAML, and shows numbers and strings apart.
                (folder / f"{name}.yaml").write_text(json.dumps(content, indent=1))
        with (folder / "trace.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows([one.get(column, "") for column in self.columns] for one in self.rows)
        return folder


def eleven_runs(shared: Path) -> list[Path]:
    """The folders of the real runs that the published figures are of."""
    folders = sorted(folder for folder in (shared / "groundtruth").iterdir() if folder.name != OVERLOADED)
    assert len(folders) == 11
    return folders
