"""KV blocks against the four counts vLLM reported, and by hand for models whose layers share blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from roofml.hardware.gpu import load_gpu
from roofml.latency.kv_capacity import KvCapacity, further_groups, kv_capacity, kv_groups
from roofml.models.load import load_model
from roofml.models.operations import AttentionOp
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder
from roofml.util.yaml_io import read_mapping

H100 = load_gpu("H100")
MODELS = sorted(path.name for path in data_folder("model_configs").iterdir() if path.is_dir())
MEASURED = {
    "llama-2-7b-tp1": ("llama-2-7b-hf", 1),
    "llama-2-70b-tp4": ("llama-2-70b-hf", 4),
    "codellama-34b-tp2": ("codellama-34b-instruct-hf", 2),
    "mixtral-8x7b-v0-1-tp2": ("mixtral-8x7b-v0.1", 2),
}


@pytest.mark.parametrize("run", MEASURED)
def test_blocks_within_half_a_percent_of_what_vllm_reported(shared: Path, run: str) -> None:
    """The issue asks for 3 %; the constants were chosen for 0.1 % and must not drift."""
    name, tp = MEASURED[run]
    capacity = kv_capacity(load_model(name), H100, tp, max_num_batched_tokens=2048, max_num_seqs=128)
    folders = list((shared / "groundtruth").glob(f"*-{run}-*"))
    assert folders
    for folder in folders:
        measured = read_mapping(folder / "kv-cache.yaml")["num_gpu_blocks"]
        assert capacity.blocks == pytest.approx(measured, rel=0.005)


def blocks(name: str, tp: int = 1, **options: float) -> KvCapacity:
    return kv_capacity(load_model(name), load_gpu("H200"), tp, **options)  # pyright: ignore


def test_memory_adds_up() -> None:
    found = blocks("qwen3-8b")
    spent = found.weight_bytes + found.activation_bytes + found.other_bytes + found.kv_bytes
    assert spent == found.usable_bytes
    assert 0 <= found.kv_bytes - found.blocks * found.block_bytes < found.block_bytes
    assert found.block_bytes == 16 * load_model("qwen3-8b").kv_bytes_per_token(1)
    assert found.requests(1600) == found.blocks / 100


def test_more_memory_more_blocks_larger_batch_fewer() -> None:
    base = blocks("qwen3-8b").blocks
    assert blocks("qwen3-8b", gpu_memory_utilization=0.95).blocks > base
    assert blocks("qwen3-8b", max_num_batched_tokens=65536).blocks < base
    assert blocks("qwen3-8b", 2).blocks > base
    half = kv_capacity(replace(load_model("qwen3-8b"), kv_dtype="fp8"), load_gpu("H200"), 1)
    assert half.blocks == pytest.approx(2 * base, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "groups", "layers_in_block"),
    [("gpt-oss-20b", 2, 12), ("gemma-3-27b-it", 7, 10), ("llama-4-scout-17b-16e-instruct", 4, 12)],
)
def test_windowed_and_full_layers_take_turns_in_blocks(name: str, groups: int, layers_in_block: int) -> None:
    """gpt-oss-20b: 12 + 12 layers; Gemma 3: 52 windowed in groups of the 10 full ones; Llama 4: 36 chunked, 12 full."""
    found, size, block_bytes = kv_groups(load_model(name), 1)
    model = load_model(name)
    assert len(found) == groups
    assert block_bytes == size * model.kv_bytes_per_token(1) // model.num_layers * layers_in_block


def test_a_window_bounds_what_a_request_takes() -> None:
    local, full = kv_groups(load_model("gpt-oss-20b"), 1)[0]
    assert full.blocks(16_000, 2048) == 1000
    assert local.blocks(16_000, 2048) == -(-(127 + 2048) // 16) + 1
    assert local.blocks(160, 2048) == 11


def test_recurrent_layers_take_one_block_that_is_large_enough_for_a_state() -> None:
    model = load_model("qwen3-next-80b-a3b-instruct")
    groups, size, block_bytes = kv_groups(model, 1)
    state = model.state_bytes(1) // 36
    page = model.kv_bytes_per_token(1) // 12 * size
    assert size % 16 == 0
    assert page >= state > page - 16 * model.kv_bytes_per_token(1) // 12
    assert block_bytes == 12 * page
    assert [group.blocks(100_000, 2048) for group in groups].count(1) == 3


def test_a_model_that_does_not_fit_is_told_the_smallest_group_that_does() -> None:
    with pytest.raises(InputError, match=r"deepseek-v3 does not fit on H100 .* minimum tensor parallel size: 16$"):
        kv_capacity(load_model("deepseek-v3"), H100, 4)
    message = r"llama-2-70b-hf does not fit on L4 .* minimum tensor parallel size: 8$"
    with pytest.raises(InputError, match=message):
        kv_capacity(load_model("llama-2-70b-hf"), load_gpu("L4"), 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan")])
def test_memory_utilization_is_a_share(value: float) -> None:
    with pytest.raises(InputError, match="gpu_memory_utilization"):
        blocks("qwen3-8b", gpu_memory_utilization=value)


def test_merged_entries_and_their_window_are_two_groups() -> None:
    """DeepSeek-V4-Flash: 256 tokens are 64 entries in layers of ratio 4 and 2 in those of ratio 128."""
    model = load_model("deepseek-v4-flash")
    (merged, window), size, block_bytes = kv_groups(model, 8)
    ops = [op for op in model.mixers(8) if isinstance(op, AttentionOp) and op.compression > 1]
    assert size == 256
    assert block_bytes == sum(op.count * 256 // op.compression * (op.kv_bytes + op.index_bytes) for op in ops)
    assert merged.blocks(100_000, 2048) == -(-100_000 // 256)
    assert window.blocks(100_000, 2048) == window.blocks(10_000, 2048)


def test_the_replay_is_told_of_the_groups_beside_the_first() -> None:
    """Gemma 3: six windowed groups; Qwen3-Next: three of states; MiMo: its windows' blocks are half as long."""

    def rows(name: str) -> tuple[list[list[int]] | None, int]:
        shares, ratio = further_groups(load_model(name), 1)
        return (None if shares is None else shares.tolist()), ratio

    assert rows("gemma-3-27b-it") == ([[6, 1024, 1]], 1)
    assert rows("qwen3-next-80b-a3b-instruct") == ([[3, -1, 1]], 1)
    assert rows("mimo-v2-flash") == ([[10, 128, 1]], 2)
    assert rows("qwen3-8b") == (None, 1)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_fits_somewhere_or_says_why(name: str) -> None:
    model, gpu = load_model(name), load_gpu("B200")
    found: list[int] = []
    refusals: list[str] = []
    for tp in (1, 2, 4, 8):
        try:
            found.append(kv_capacity(model, gpu, tp).blocks)
        except InputError as error:
            refusals.append(str(error))
    assert found or len(refusals) == 4
    assert all(text.startswith(name) for text in refusals)
    assert all(count > 0 for count in found)
