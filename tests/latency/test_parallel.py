"""Parallelism beyond tensors: one rank of each kind changes nothing, more share the work, and never for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.batch import Batch
from roofml.latency.components import component_tables
from roofml.latency.deployment import deploy
from roofml.latency.formula import step_times
from roofml.latency.parallel import Parallel
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.models.load import load_model
from roofml.util.errors import InputError

MIXTURE, DENSE = "qwen3-30b-a3b", "qwen3-8b"
STEP = Parameters.of(PRIOR_VALUES).step


def time_of(batch: Batch, model: str = MIXTURE, **ranks: Any) -> float:
    """Of a step on H100, µs."""
    tables = deploy(model, "H100", ranks.pop("tp", 1), batch.new_tokens + 64, **ranks).tables
    return float(step_times(tables, batch.sums(), STEP)[0])


DECODE, PROMPT = Batch(decode=[(1000, 64)]), Batch(prefill=[(2048, 0)])


def test_one_rank_of_each_kind_is_no_parallelism() -> None:
    model, gpu = load_model(MIXTURE), load_gpu("H100")
    kernels = load_efficiency(gpu)
    plain = component_tables(model, gpu, 2, 512, kernels)
    spread = component_tables(model, gpu, Parallel(2, 1, 1, 1), 512, kernels)
    for ours, theirs in zip(plain, spread, strict=True):
        assert np.array_equal(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), equal_nan=True)


def test_dealt_experts_take_the_same_memory_and_traffic_as_cut_ones() -> None:
    """Four ranks with a quarter of the experts each, or a slice of all: the bytes are the same but for scales."""
    model = load_model(MIXTURE)
    dealt = Parallel(4, 1, 1, 4).cut(model)
    assert dealt.weight_bytes(4) == pytest.approx(model.weight_bytes(4), rel=1e-3)
    ours = deploy(MIXTURE, "H100", 4, 512, ep=4).tables
    cut = deploy(MIXTURE, "H100", 4, 512).tables
    # Many tokens hit all experts, wherever they are; kernels of other widths differ a little (slices of 96 by half).
    assert ours.expert_weights[512] == pytest.approx(cut.expert_weights[512], rel=0.35)


def test_the_busiest_rank_computes_more_than_its_share() -> None:
    """Of what the experts compute; what every rank does besides stays."""
    cut, dealt = deploy(MIXTURE, "H100", 4, 512).tables, deploy(MIXTURE, "H100", 4, 512, ep=4).tables
    assert dealt.gemm[512] > cut.gemm[512]
    assert dealt.communication[64] == cut.communication[64]


def test_engines_that_share_experts_see_the_tokens_of_all_and_gather_them() -> None:
    alone, four = deploy(MIXTURE, "H100", 1, 512).tables, deploy(MIXTURE, "H100", 1, 512, dp=4, ep=4).tables
    assert alone.communication[64] == 0
    assert four.communication[64] > 0
    assert np.all(np.diff(four.communication) >= 0)
    # A quarter of the experts each, but four times the tokens.
    assert four.expert_weights[1] < alone.expert_weights[4]
    assert time_of(DECODE, dp=4, ep=4) < time_of(DECODE)


@pytest.mark.parametrize("batch", [DECODE, PROMPT])
def test_more_stages_never_take_longer_but_for_handing_over(batch: Batch) -> None:
    one, two, four = (time_of(batch, DENSE, pp=stages) for stages in (1, 2, 4))
    slack = 4 * (10 + 1e6 * 4096 * 2048 * 2 / 450e9)  # boundaries
    assert two <= one + slack
    assert four <= two + slack
    if batch is DECODE:
        assert four > 0.5 * one  # weights are read for every batch


def test_a_stage_holds_its_share_of_the_layers() -> None:
    model = load_model(DENSE)
    stage = Parallel(1, 4).stage(model)
    assert stage.num_layers == model.num_layers / 4
    assert stage.kv_bytes_per_token(1) == model.kv_bytes_per_token(1) / 4


def test_every_kind_says_why_it_is_less_sure() -> None:
    names = [doubt.name for doubt in deploy(MIXTURE, "H100", 2, pp=2, dp=2, ep=4).doubts]
    assert names == ["expert parallel", "data parallel", "pipeline"]
    assert [doubt.name for doubt in deploy(DENSE, "L40S", 2).doubts] == ["PCIe"]
    assert deploy(DENSE, "H100", 2).doubts == ()


@pytest.mark.parametrize(
    ("model", "ranks", "message"),
    [
        (DENSE, {"tp": 2, "ep": 2}, "expert parallel size 2: it has no experts"),
        (MIXTURE, {"tp": 2, "ep": 4}, "expert parallel size 4: experts are dealt to all ranks of a stage, tp 2 x dp 1"),
        (MIXTURE, {"dp": 3, "ep": 3}, "128 experts do not divide by expert parallel size 3"),
        (DENSE, {"pp": 64}, "64 pipeline stages for 36 layers"),
        (DENSE, {"pp": 0}, "pipeline parallel size 0: expected between 1 and 1024"),
    ],
)
def test_what_no_engine_does_is_refused_by_name(model: str, ranks: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        deploy(model, "H100", ranks.pop("tp", 1), **ranks)
