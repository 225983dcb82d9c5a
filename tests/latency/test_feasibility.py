"""What cannot be on a GPU is refused, and what vLLM's defaults would not allow is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fitted import a_run

from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import Batch
from roofml.latency.deployment import deployment_of
from roofml.latency.feasibility import check_run, check_step
from roofml.models.load import load_model
from roofml.traces.read import read_run
from roofml.util.errors import InputError

H100 = load_gpu("H100")
LLAMA = load_model("llama-2-7b-hf")


def test_a_step_that_fits_says_nothing() -> None:
    """16.8 million tokens of context would not; 50 requests of 2,000 do."""
    assert check_step(LLAMA, H100, 1, Batch(decode=[(2000, 50)])) == []
    assert check_step(LLAMA, H100, 1, Batch(prefill=[(2048, 2048)])) == []


def test_a_step_beyond_the_default_share_of_memory_is_said() -> None:
    """62·(2,001 tokens in 126 blocks) of 8 MiB each: 61 GiB, where 66.4 are free and vLLM leaves 57.5."""
    said = check_step(LLAMA, H100, 1, Batch(decode=[(2000, 62)]))
    assert said == [
        "the step's KV cache takes 61.0 GiB of each GPU, and vLLM's default of 90 % of the memory leaves 57.5 GiB"
    ]
    large = load_model("llama-2-70b-hf")
    (text,) = check_step(large, replace(H100, memory_bytes=72 * 2**30, reported_memory_bytes=0), 2, Batch([(1, 0)]))
    assert text.startswith("at vLLM's default of 90 % of the memory, llama-2-70b-hf does not fit on H100")


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "batch", "message"),
    [
        ("llama-2-70b-hf", "H100", 1, Batch(decode=[(7, 1)]), r"weights take 128\.5 of 79\.2 GiB; .* size: 2$"),
        ("deepseek-v3", "H100", 8, Batch(decode=[(7, 1)]), r"does not fit .* minimum tensor parallel size: 16$"),
        ("llama-2-7b-hf", "H100", 1, Batch(decode=[(4096, 1)]), r"4097 tokens, .* llama-2-7b-hf has 4096 positions"),
        ("llama-2-7b-hf", "H100", 1, Batch(prefill=[(4097, 0)]), r"4097 tokens, .* has 4096 positions"),
        ("llama-2-7b-hf", "H100", 1, Batch(prefill=[(1, 10**9)]), r"1000000001 tokens, .* has 4096 positions"),
        ("llama-2-7b-hf", "H100", 1, Batch(decode=[(4000, 64)]), r"KV cache takes 125\.5 GiB .* leaves 66\.4; .*: 2$"),
        ("llama-2-7b-hf", "H100", 1, Batch(decode=[(4000, 10**6)]), r"no tensor parallel size up to 1024 is enough$"),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_what_would_do(
    model: str, gpu: str, tp: int, batch: Batch, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_step(load_model(model), load_gpu(gpu), tp, batch)


def test_merged_entries_take_room_and_little_of_it() -> None:
    model = load_model("deepseek-v4-flash")
    assert check_step(model, load_gpu("B200"), 8, Batch(decode=[(1000, 1000)])) == []
    with pytest.raises(InputError, match="its KV cache takes"):
        check_step(model, load_gpu("B200"), 8, Batch(decode=[(1000, 10_000)]))
    with pytest.raises(InputError, match="does not fit on H100"):
        check_step(model, H100, 1, Batch(decode=[(1000, 1)]))


SERVERS: list[tuple[dict[str, Any], str]] = [
    ({"num_gpu_blocks": 100_000}, r"made up: num_gpu_blocks 100000: they take 390\.6 GiB .* has room for 17003$"),
    ({"num_gpu_blocks": 20_000_000}, r"num_gpu_blocks 20000000: "),
    ({"num_gpu_blocks": 21_255}, r"num_gpu_blocks 21255: "),
    ({"block_size": 256}, r"num_gpu_blocks 5000: they take 312\.5 GiB"),
    ({"max_model_len": 400_000}, r"made up: max_model_len 400000: llama-2-7b-hf has 4096 positions, expected no more"),
    ({"model": "llama-2-70b-hf"}, r"made up: llama-2-70b-hf does not fit .* minimum tensor parallel size: 2$"),
    ({"max_num_batched_tokens": 3_000_000}, r"max_num_batched_tokens 3000000: expected between 1 and 1048576"),
]


@pytest.mark.parametrize(("changes", "message"), SERVERS, ids=[",".join(changes) for changes, _ in SERVERS])
def test_a_run_of_a_server_that_cannot_have_been_is_refused(changes: dict[str, Any], message: str) -> None:
    run = a_run()
    with pytest.raises(InputError, match=message):
        deployment_of(
            [run, replace(run, server=replace(run.server, **changes))]
            if "model" not in changes
            else [replace(run, server=replace(run.server, **changes))]
        )


@pytest.mark.parametrize("blocks", [1, 100, 7462, 10_626])
def test_few_blocks_and_a_quarter_more_than_estimated_are_believed(blocks: int) -> None:
    run = a_run()
    check_run(LLAMA, H100, 1, replace(run, server=replace(run.server, num_gpu_blocks=blocks)))


def test_stretched_positions_are_positions() -> None:
    run = a_run()
    longer = replace(run, server=replace(run.server, max_model_len=8192))
    check_run(replace(LLAMA, longest_context=8192), H100, 1, longer)
    with pytest.raises(InputError, match="has 4096 positions"):
        check_run(LLAMA, H100, 1, longer)


def test_every_real_server_can_have_been(shared: Path) -> None:
    for folder in sorted((shared / "groundtruth").iterdir()):
        assert deployment_of([read_run(folder, gpu="H100")]).tp


def test_what_does_not_fit_is_said_where_that_is_allowed() -> None:
    model = load_model("deepseek-v3")
    said = check_step(model, H100, 1, Batch(decode=[(700, 32)]), allow_oversize=True)
    assert len(said) == 1
    assert said[0].startswith("deepseek-v3 does not fit on H100 with tensor parallel size 1: its weights take 628.8 of")
    assert said[0].endswith("minimum tensor parallel size: 16")
    run = a_run()
    large = replace(run, server=replace(run.server, num_gpu_blocks=100_000))
    (text,) = check_run(LLAMA, H100, 1, large, allow_oversize=True)
    assert "num_gpu_blocks 100000: they take" in text


def test_seats_that_the_blocks_never_fill_are_said() -> None:
    run = a_run()
    few = replace(run, server=replace(run.server, num_gpu_blocks=700))
    assert check_run(LLAMA, H100, 1, run) == []
    (text,) = check_run(LLAMA, H100, 1, few)
    assert re.fullmatch(r"made up: max_num_seqs 64 is never reached: 700 KV blocks hold \d+ of its requests", text), (
        text
    )


def test_groups_over_pcie_are_priced_on_trust_and_say_so() -> None:
    l40s = load_gpu("L40S")
    batch = Batch(decode=[(700, 8)])
    assert check_step(LLAMA, l40s, 1, batch) == []
    (text,) = check_step(LLAMA, l40s, 2, batch)
    assert text == (
        "tensor parallel size 2 on L40S: its all-reduces go over PCIe, and are priced by what was measured between "
        "GPUs that reach each other's memory; without peer-to-peer access they take longer, nobody here knows how much"
    )
    assert check_step(LLAMA, H100, 2, batch) == []
