"""Ideal step times: by hand on small numbers, closed forms against sums, monotone in what a step does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from roofml.hardware.gpu import load_gpu
from roofml.latency.inspection import inspect_model, plot_roofline
from roofml.latency.roofline import attention_load, gemm_load, step_loads, step_us
from roofml.models.load import load_model
from roofml.models.operations import AttentionOp, Gemm
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

H100 = load_gpu("H100")
MODELS = sorted(path.name for path in data_folder("model_configs").iterdir() if path.is_dir())
OP = AttentionOp("attention", 3, 4, 2, 8, 8, 128, 128, 64, "bfloat16")
KINDS = [
    {},
    {"window": 5},
    {"chunk": 7},
    {"top_k": 4, "index_flops_per_pair": 2, "index_bytes": 4},
    {"window": 6, "compression": 4},
    {"window": 6, "compression": 4, "top_k": 3},
]


@pytest.mark.parametrize("kind", KINDS)
@given(context=st.integers(0, 60), new=st.integers(1, 60))
def test_closed_forms_equal_the_sum_over_queries(kind: dict[str, int], context: int, new: int) -> None:
    op = replace(OP, **kind)
    assert op.pairs(context, new) == sum(op.keys(position) for position in range(context, context + new))
    assert op.keys(context + new - 1) <= op.entries(context, new) <= context + new + (context + new) // 2


def test_one_gemm_by_hand() -> None:
    """64 rows of 4096 x 1024 in BF16, 2 layers: 2·64·4096·1024·2 FLOP; weights once, rows in and out."""
    model = load_model("qwen3-8b")
    gemm = Gemm("any", 1024, 4096, 2, "tokens", 1024 * 4096 * 2, "bfloat16")
    load = gemm_load(gemm, 64, model)
    assert load.flops == 2 * 2 * 64 * 4096 * 1024
    assert load.bytes == 2 * (1024 * 4096 * 2 + 64 * 5120 * 2)
    assert load.ideal_us(H100) == pytest.approx(load.bytes / 3.35e6)


def test_experts_that_tokens_hit() -> None:
    """1 token hits its 2 of 8 experts; many hit all; each token computes 2."""
    model = load_model("mixtral-8x7b-v0.1")
    gemm = Gemm("expert_down", 10, 20, 1, "tokens", 400, "bfloat16", 8, 2)
    assert gemm_load(gemm, 1, model).bytes == pytest.approx(2 * 400 + 2 * 30 * 2)
    assert gemm_load(gemm, 1000, model).bytes == pytest.approx(8 * 400 + 1000 * 2 * 30 * 2)
    assert gemm_load(gemm, 5, model).flops == 5 * 2 * 2 * 10 * 20


def test_attention_by_hand() -> None:
    """A decode at context 10 reads 11 entries and writes one; a prefill of 4 has 1 + 2 + 3 + 4 pairs."""
    decode, prefill = attention_load(OP, [(1, 10)]), attention_load(OP, [(4, 0)])
    assert (decode.flops, decode.bytes) == (3 * 128 * 11, 3 * 64 * 12)
    assert (prefill.flops, prefill.bytes) == (3 * 128 * 10, 3 * 64 * 8)


@pytest.mark.parametrize("name", MODELS)
def test_steps_grow_with_batch_context_and_prompt(name: str) -> None:
    model, gpu = load_model(name), load_gpu("B200")

    def us(requests: list[tuple[int, int]]) -> float:
        return step_us(step_loads(model, 1, requests), gpu)

    batches = [us([(1, 600)] * batch) for batch in (1, 2, 16, 64)]
    contexts = [us([(1, context)] * 4) for context in (0, 10, 1000, 3000)]
    prompts = [us([(new, 0)]) for new in (1, 64, 512, 4000)]
    for times in (batches, contexts, prompts):
        assert times == sorted(times)
        assert 0 < times[0] < 1e7


def test_decode_of_a_dense_model_is_bound_by_its_weights() -> None:
    model = load_model("llama-3.1-8b-instruct")
    least = (model.weight_bytes(1) - model.embedding_parameters * 2) / H100.bandwidth_bytes_per_us
    assert step_us(step_loads(model, 1, [(1, 1)]), H100) == pytest.approx(least, rel=0.01)


def test_tensor_parallelism_divides_work_and_adds_communication() -> None:
    model = load_model("llama-3.1-70b-instruct")
    one, four = step_loads(model, 1, [(1, 100)] * 8), step_loads(model, 4, [(1, 100)] * 8)
    assert "all_reduce" not in {load.name for load in one}
    reduce = next(load for load in four if load.name == "all_reduce")
    assert reduce.link_bytes == 161 * 2 * 3 / 4 * 8 * 8192 * 2
    assert sum(load.flops for load in four) * 4 == pytest.approx(sum(load.flops for load in one), rel=1e-3)


def command(*arguments: str) -> Any:
    import typer

    from roofml.cli.inspect import inspect

    app = typer.Typer()
    app.command()(inspect)
    return CliRunner().invoke(app, list(arguments))


def test_inspect_prints_one_json_document() -> None:
    result = command("mixtral-8x7b-v0.1", "--gpu", "h100", "--tp", "2", "--json")
    document = json.loads(result.stdout)
    assert document["parameters"] == {"total": 46702792704, "active": 12879925248, "embedding": 131072000}
    assert document["problems"] == []
    assert document["kv"]["blocks"] > 25_000
    assert {row["step"] for row in document["ideal_steps"]} >= {"decode 1 x 512", "prefill 2048"}
    assert document["assumptions"] == ["head_dim = 128 (not in the config: hidden_size / num_attention_heads)"]


def test_inspect_shows_facts_table_and_problems() -> None:
    text = command("deepseek-v3", "--gpu", "A100", "--tp", "8").stdout
    assert "671.03 B, 37.55 B active" in text
    assert "minimum tensor parallel size: 16" in text
    assert "no ideal step times" not in text  # its FP8 weights are unpacked, and it computes in bfloat16
    text = command("qwen3-next-80b-a3b-instruct", "--gpu", "H200", "--tp", "2").stdout
    assert "MiB a request and GPU" in text
    assert "decode 32 x 2048" in text
    assert command("qwen3-8b", "--gpu", "H100", "--quiet").stdout == ""


def test_inspect_takes_the_type_of_the_cache() -> None:
    half = json.loads(command("qwen3-8b", "--gpu", "H100", "--kv-cache-dtype", "fp8", "--json").stdout)
    assert half["kv_bytes_per_token"] * 2 == load_model("qwen3-8b").kv_bytes_per_token(1)
    refused = command("qwen3-8b", "--gpu", "H100", "--kv-cache-dtype", "fp1").exception
    assert isinstance(refused, InputError)
    assert "expected one of bfloat16, float16, fp8" in str(refused)


def test_a_roofline_is_drawn_in_the_format_of_its_suffix(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the `plot` extra")
    model = load_model("gpt-oss-20b")
    plot_roofline(model, H100, 1, tmp_path / "roof.svg")
    assert "gpt-oss-20b on H100" in (tmp_path / "roof.svg").read_text() or (tmp_path / "roof.svg").stat().st_size > 5000
    with pytest.raises(InputError, match="cannot draw"):
        plot_roofline(model, H100, 1, tmp_path / "roof.odd")
    with pytest.raises(InputError, match="nowhere does not exist"):
        plot_roofline(model, H100, 1, tmp_path / "nowhere" / "roof.png")
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"")
    kept.chmod(0o400)
    with pytest.raises(InputError, match="is read-only"):
        plot_roofline(model, H100, 1, kept)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_inspected_on_a_small_and_a_large_gpu(name: str) -> None:
    model = load_model(name)
    for gpu in ("L4", "B200"):
        document = inspect_model(model, load_gpu(gpu), 1)
        assert document["kv"] is not None or document["problems"]
        assert document["ideal_steps"] or any("is missing from its sheet" in text for text in document["problems"])
        json.dumps(document, allow_nan=False)
