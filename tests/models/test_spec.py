"""ModelSpec from configs: shapes, bytes, what is refused and how."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from roofml.models.load import load_model
from roofml.models.operations import AttentionOp, StateOp
from roofml.models.spec import ModelSpec, model_from_config
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.package_data import data_folder

MODELS = sorted(path.name for path in data_folder("model_configs").iterdir() if path.is_dir())
TENSOR_PARALLEL = (1, 2, 4, 8)

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 130,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}


def small(**changes: Any) -> ModelSpec:
    return model_from_config({**SMALL, **changes}, "small")


def possible(model: ModelSpec, tp: int) -> bool:
    try:
        model.check_tensor_parallel(tp)
    except InputError:
        return False
    return True


def test_at_least_forty_models_over_twenty_classes() -> None:
    assert len(MODELS) >= 40
    assert len({load_model(name).architecture for name in MODELS}) >= 20


def test_a_small_model_by_hand() -> None:
    model = small()
    by_name = {gemm.name: gemm for gemm in model.gemms(2)}
    assert {name: (gemm.n, gemm.k, gemm.count) for name, gemm in by_name.items()} == {
        "qkv": (32 + 2 * 8, 64, 3),
        "attention_output": (64, 32, 3),
        "gate_up": (96, 64, 3),
        "down": (64, 48, 3),
        "lm_head": (96, 64, 1),  # 130 padded to 192
    }
    assert by_name["qkv"].weight_bytes == 48 * 64 * 2
    assert by_name["qkv"].flops_per_row == 2 * 48 * 64
    assert by_name["lm_head"].rows == "sampled"
    (op,) = model.mixers(2)
    assert isinstance(op, AttentionOp)
    assert (op.heads, op.kv_heads, op.kv_bytes, op.prefill_flops_per_pair) == (4, 1, 2 * 8 * 2, 4 * 4 * 8)
    attention, mlp, norms = 64 * (64 + 32 + 64), 3 * 64 * 96, 2 * 64
    assert model.parameters() == 3 * (attention + mlp + norms) + 2 * 130 * 64 + 64
    assert model.weight_bytes(1) == 2 * (3 * (attention + mlp + norms) + 2 * 192 * 64 + 64)
    assert model.kv_bytes_per_token(1) == 3 * 2 * 2 * 8 * 2
    assert model.allreduces == 7


@pytest.mark.parametrize("name", MODELS)
def test_gemms_of_all_ranks_hold_every_matrix_once(name: str) -> None:
    """One rank's products have all matrices' elements; more ranks never hold fewer in sum, and each holds less."""
    model = load_model(name)
    matrices = sum(
        count * (part.parameters - (part.n * max(1, part.experts) if part.bias else 0))
        for layer, count in model.layers
        for part in layer.projections(model.hidden_size)
    )
    elements = {
        tp: sum(g.n * g.k * g.count * max(1, g.experts) for g in model.gemms(tp) if g.rows == "tokens")
        for tp in TENSOR_PARALLEL
        if possible(model, tp)
    }
    assert elements[1] == matrices
    ranks = sorted(elements)
    for fewer, more in pairwise(ranks):
        assert elements[more] < elements[fewer]
        assert elements[more] * more >= elements[fewer] * fewer
        assert model.weight_bytes(more) < model.weight_bytes(fewer)


@pytest.mark.parametrize("name", MODELS)
def test_the_cache_shrinks_with_ranks_and_no_query_reads_more_than_it_sees(name: str) -> None:
    model = load_model(name)
    contexts = [1, 100, 128, 129, 5000, 100_000]
    for tp in TENSOR_PARALLEL:
        if not possible(model, tp):
            continue
        assert 0 < model.kv_bytes_per_token(tp) <= model.kv_bytes_per_token(1)
        for op in model.mixers(tp):
            if isinstance(op, AttentionOp):
                keys = [op.keys(position) for position in contexts]
                assert all(0 < k <= position + 1 + op.window for k, position in zip(keys, contexts, strict=True))
            else:
                assert isinstance(op, StateOp)
                assert op.state_bytes > 0
    assert 0 < model.active_parameters() <= model.parameters()


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-2-7b-hf", 2 * 32 * 32 * 128 * 2),
        ("llama-3.1-70b-instruct", 2 * 80 * 8 * 128 * 2),
        ("deepseek-v3", 61 * (512 + 64) * 2),
        ("deepseek-v3.2", 61 * ((512 + 64) * 2 + 128 + 4)),
        ("gpt-oss-120b", 2 * 36 * 8 * 64 * 2),
        ("qwen3-next-80b-a3b-instruct", 2 * 12 * 2 * 256 * 2),
        ("mimo-v2-flash", 9 * 4 * (192 + 128) * 2 + 39 * 8 * (192 + 128) * 2),
    ],
)
def test_kv_bytes_per_token_by_hand(name: str, bytes_per_token: int) -> None:
    assert load_model(name).kv_bytes_per_token(1) == bytes_per_token


def test_latent_attention_keeps_its_whole_cache_on_every_rank() -> None:
    model = load_model("deepseek-v3")
    assert model.kv_bytes_per_token(8) == model.kv_bytes_per_token(1)


def test_fewer_kv_heads_than_ranks_are_copied() -> None:
    model = load_model("qwen3-30b-a3b")
    assert model.kv_bytes_per_token(8) == model.kv_bytes_per_token(4) == model.kv_bytes_per_token(1) // 4


@pytest.mark.parametrize(
    ("position", "keys"), [(0, 1), (126, 127), (127, 128), (128, 128), (5000, 128)]
)  # fmt: skip
def test_a_window_of_128_sees_128_keys(position: int, keys: int) -> None:
    local, full = load_model("gpt-oss-20b").mixers(1)
    assert isinstance(local, AttentionOp)
    assert isinstance(full, AttentionOp)
    assert local.keys(position) == keys
    assert full.keys(position) == position + 1


def test_llama4_chunks_begin_anew_and_every_fourth_layer_sees_all() -> None:
    chunked, full = load_model("llama-4-scout-17b-16e-instruct").mixers(1)
    assert isinstance(chunked, AttentionOp)
    assert isinstance(full, AttentionOp)
    assert (chunked.count, full.count) == (36, 12)
    assert [chunked.keys(p) for p in (0, 8191, 8192, 8193)] == [1, 8192, 1, 2]


def test_sparse_attention_reads_top_k_but_scores_all() -> None:
    (op,) = load_model("deepseek-v3.2").mixers(1)
    assert isinstance(op, AttentionOp)
    assert [op.keys(p) for p in (10, 2047, 2048, 50_000)] == [11, 2048, 2048, 2048]
    assert op.index_flops_per_pair == 2 * 64 * 128


def test_kv_cache_in_fp8_is_half() -> None:
    model = load_model("llama-3.1-8b-instruct")
    assert 2 * replace(model, kv_dtype="fp8").kv_bytes_per_token(1) == model.kv_bytes_per_token(1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            NotSupportedError,
            "architectures: 'MambaForCausalLM' is not supported",
        ),
        ({"architectures": []}, InputError, "architectures: expected a list"),
        ({"hidden_size": None}, InputError, "hidden_size: expected a positive integer, found None"),
        ({"hidden_size": 65}, InputError, "hidden_size 65 does not divide by num_attention_heads 8"),
        ({"num_key_value_heads": 3}, InputError, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        ({"num_hidden_layers": 10**6}, InputError, "num_hidden_layers: expected at most 10000"),
        ({"torch_dtype": "float64"}, NotSupportedError, "torch_dtype: 'float64'"),
        ({"attention_bias": "yes"}, InputError, "attention_bias: expected true or false, found 'yes'"),
        ({"tie_word_embeddings": 1}, InputError, "tie_word_embeddings: expected true or false"),
        ({"text_config": 3}, InputError, "text_config: expected a mapping"),
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 5},
            InputError,
            "num_experts_per_tok 5 exceeds 4 experts",
        ),
        ({"architectures": ["Gemma3ForCausalLM"], "layer_types": ["odd"] * 3}, NotSupportedError, "layer_types: 'odd'"),
    ],
)
def test_refusals_are_one_line_with_model_and_field(
    changes: dict[str, Any], error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        small(**changes)
    assert str(caught.value).startswith("small: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tp", "message"),
    [
        ("llama-2-7b-hf", 0, "tensor parallel size 0: expected at least 1"),
        ("qwen2.5-0.5b-instruct", 4, "num_attention_heads 14 does not divide by tensor parallel size 4"),
        ("phi-4", 4, "num_key_value_heads 10 does not divide by tensor parallel size 4"),
    ],
)
def test_a_cut_that_is_impossible_names_the_field(name: str, tp: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(name).gemms(tp)


def test_defaults_are_noted() -> None:
    config = {key: value for key, value in SMALL.items() if key not in {"num_key_value_heads", "torch_dtype"}}
    assumptions = model_from_config(config, "small").assumptions
    assert "num_key_value_heads = 8 (not in the config: as many as num_attention_heads)" in assumptions
    assert "dtype = bfloat16 (the config says nothing: vLLM's choice)" in assumptions


def test_a_config_is_found_by_name_repository_and_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    assert load_model("Qwen/Qwen3-8B") == load_model("qwen3-8b")
    assert load_model(str(tmp_path)).parameters() == load_model(str(tmp_path / "config.json")).parameters()
    with pytest.raises(InputError, match=r"model .nowhere.: no such path and not in model_configs/ \("):
        load_model("nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_model(str(tmp_path))


def test_real_configs_parse_or_are_refused_by_field(shared: Path) -> None:
    """All of the 96 collected configs but one: what DeepSeek V4.1's tables of n-grams cost is not public."""
    refused: dict[str, str] = {}
    for path in sorted((shared / "hf_configs").glob("*.json")):
        try:
            model = load_model(str(path))
        except InputError as error:
            refused[path.stem] = str(error)
        else:
            assert model.gemms(1)
            assert model.mixers(1)
            assert model.weight_bytes(1) > 0
    assert list(refused) == ["deepseek-ai--DeepSeek-V4.1-Flash"]
    (message,) = refused.values()
    assert message == "deepseek-ai--DeepSeek-V4.1-Flash: engram_layer_ids: [1, 14] is not supported yet"


def config_in(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(SMALL | changes))
    return path


def test_a_key_that_stands_twice_is_refused_not_obeyed_by_halves(tmp_path: Path) -> None:
    path = config_in(tmp_path)
    path.write_text(path.read_text().replace("{", '{"hidden_size": 64, ', 1))
    with pytest.raises(InputError, match=r"config\.json: key 'hidden_size' is there twice"):
        load_model(str(path))
    config_in(tmp_path)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {}, "quantization": {}}')
    with pytest.raises(InputError, match=r"hf_quant_config\.json: key 'quantization' is there twice"):
        load_model(str(path))


def test_numbers_that_are_none_are_read_where_nothing_uses_them(tmp_path: Path) -> None:
    path = config_in(tmp_path)
    path.write_text(path.read_text().replace("{", '{"time_step_limit": [0.0, Infinity], "unused": NaN, ', 1))
    assert load_model(str(path)).parameters() == load_model(str(config_in(tmp_path))).parameters()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json"])
@pytest.mark.parametrize("kind", ["FIFO", "folder", "broken link", "link loop", "device", "huge"])
def test_a_file_that_is_there_but_cannot_be_read_is_refused_not_left_out(tmp_path: Path, name: str, kind: str) -> None:
    path = config_in(tmp_path).with_name(name)
    path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(3_000_000_000)
    else:
        path.symlink_to({"broken link": "nowhere", "link loop": path, "device": "/dev/zero"}[kind])
    with pytest.raises(InputError, match=re.escape(str(path))) as refused:
        load_model(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "\x00", "a\x00b", "", "  ", "..", "../..", "\x1b[2J"])
def test_a_name_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(InputError) as refused:
        load_model(name)
    assert "\n" not in str(refused.value)


def test_a_config_that_links_to_itself_is_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for name in (loop, loop / "config.json"):
        with pytest.raises(InputError, match="loop"):
            load_model(str(name))


def test_names_like_the_one_asked_for_are_said() -> None:
    with pytest.raises(InputError, match=r"model 'Qwen/qwen3-9b': no such path .* \(qwen3-8b\?, "):
        load_model("Qwen/qwen3-9b")
    with pytest.raises(NotSupportedError, match=r"'LlamaForCausalLm' is not supported \(LlamaForCausalLM\?"):
        model_from_config(SMALL | {"architectures": ["LlamaForCausalLm"]}, "small")


def test_a_model_is_called_after_its_folder_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine \x1b[2J\n"
    config_in(folder)
    assert load_model(str(folder)).name == "mine \\x1b[2J"
    monkeypatch.chdir(folder)
    assert load_model("config.json").name == "mine \\x1b[2J"


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"type": "dynamic", "factor": 2}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        ({"rope_type": "default", "factor": None}, 4096),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_theta": 1e4}}, 32768),
    ],
)
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_positions_that_are_stretched_reach_further(field: str, scaling: dict[str, Any] | None, longest: int) -> None:
    config = SMALL | {"max_position_embeddings": 4096, field: scaling}
    assert model_from_config(config, "small").longest_context == longest


@pytest.mark.parametrize("factor", ["4", True, -1, 0, 10**30, math.nan, [4.0]])
def test_a_stretch_that_is_none_is_refused_by_field(factor: object) -> None:
    config = SMALL | {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    with pytest.raises(InputError, match=r"^small: rope_scaling: factor: expected a number above 0, up to 1024, found"):
        model_from_config(config, "small")
