"""Measuring: it runs at toy sizes on a CPU, says what it ran on, and refuses without a GPU."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from commandline import fails, ok

from roofml.microbench.derive import COLUMNS

TOY = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TOY))
    return folder / "config.json"


@needs_torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("experts", [True, False], ids=["mixture", "dense"])
def test_every_kernel_of_a_toy_is_timed_on_a_cpu(config: Path, tmp_path: Path, experts: bool) -> None:
    if not experts:
        dense = {key: value for key, value in TOY.items() if "expert" not in key}
        config.write_text(json.dumps(dense | {"architectures": ["LlamaForCausalLM"]}))
    out = tmp_path / "out"
    said = ok("bench", "measure", config, "--device", "cpu", "--seconds", "60", "-o", out, "--json").document
    expected = {"gemm", "context_attention", "generation_attention", "moe" if experts else "decoder_steps"}
    assert set(said["raw"]) == expected
    assert said["tables"] == {}
    assert {"torch", "device", "python"} <= set(said["environment"])
    for kernel in expected:
        with (out / "raw" / f"{kernel}_perf.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == said["raw"][kernel]
        assert all(float(row["latency"]) > 0 for row in rows)
        assert set(COLUMNS.get(kernel, ("latency",))) <= set(rows[0])


@needs_torch
def test_without_a_gpu_it_says_so_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    line = fails("bench", "measure", config, "--gpu", "H100", "-o", tmp_path / "out").err
    assert "no NVIDIA GPU that torch can use is here" in line
    assert not (tmp_path / "out").exists()


def test_without_torch_it_says_what_to_install(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roofml.microbench import measure

    def gone(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(measure.importlib, "import_module", gone)
    assert (
        "pip install 'roofml[measure]'"
        in fails("bench", "measure", config, "--device", "cpu", "-o", tmp_path / "o").err
    )


def test_a_gpu_must_be_named_and_a_device_known(config: Path, tmp_path: Path) -> None:
    assert "--gpu: expected" in fails("bench", "measure", config, "-o", tmp_path / "out").err
    assert "--device 'tpu'" in fails("bench", "measure", config, "--device", "tpu", "-o", tmp_path / "out").err
