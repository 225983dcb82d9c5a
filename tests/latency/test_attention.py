"""Attention that does not read its whole context: what must hold whatever a kernel reaches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import BUDGET, GPU, LLAMA, ROUND, Request, decodes, model, prefills

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.attention import attention_ops, reaches_of
from roofml.latency.batch import NEAR, StepSums
from roofml.latency.components import ComponentTables, component_sd, component_tables, components
from roofml.latency.formula import step_times
from roofml.latency.parameters import StepParameters
from roofml.models.load import load_model
from roofml.models.operations import StateOp
from roofml.models.spec import ModelSpec
from roofml.util.errors import NotSupportedError

batches = st.lists(st.one_of(prefills, decodes), min_size=1, max_size=9)
CHANGING_NOTHING = StepParameters()
LIMITED = ("gpt-oss-20b", "llama-4-scout-17b-16e-instruct", "deepseek-v3.2", "deepseek-v4-flash")
"""A window and the whole context by turns; chunks; top_k; merged entries."""


@cache
def tables_of(window: int) -> ComponentTables:
    config: dict[str, Any] = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": window or None}
    return component_tables(model(config), GPU, 1, BUDGET, ROUND)


@cache
def limited(name: str) -> ComponentTables:
    """Of a shipped model with made-up efficiencies."""
    spec = load_model(name)
    layers = tuple((replace(layer, mlp=None, formats=()), count) for layer, count in spec.layers)
    return component_tables(replace(spec, layers=layers), load_gpu("H200"), 8, BUDGET, ROUND)


def time_of(tables: ComponentTables, batch: list[Request]) -> float:
    sums = StepSums.from_requests([batch], tables.reaches)
    return float(step_times(tables, sums, CHANGING_NOTHING._replace(long_context=1.0))[0])


@given(batches, st.sampled_from([1, 64, 1000, 5000]))
def test_a_window_never_costs_more_than_full_attention(batch: list[Request], window: int) -> None:
    assert time_of(tables_of(window), batch) <= time_of(tables_of(0), batch) * (1 + 1e-12)


@given(batches)
def test_a_window_that_reaches_everything_is_full_attention(batch: list[Request]) -> None:
    """To 1e-12: the same sums, added in another order."""
    assert time_of(tables_of(10**6), batch) == pytest.approx(time_of(tables_of(0), batch), rel=1e-12)


@given(st.integers(511, 4000), st.integers(1, 64))
def test_decoding_is_flat_beyond_the_window(context: int, requests: int) -> None:
    assert time_of(tables_of(512), [(1, context, 0)] * requests) == time_of(tables_of(512), [(1, 511, 0)] * requests)


def test_a_windowed_step_by_hand() -> None:
    """8 layers of 16 heads of 64, 4 KV heads: a token's keys and values are 2·4·64·2 = 1,024 bytes.

    A window of 512 reads 512 of a decode after 1,000 tokens, its own included, and 512 of the prompt's chunk of 4 after
    2,000 read at least 515. ROUND: 0.6 of 3 TB/s, prefill at 0.5 of 1,000 TFLOP/s, 4·16·64 FLOP a pair.
    """
    sums = StepSums.from_requests([[(1, 1000, 0), (4, 2000, 3000)]], tables_of(512).reaches)
    assert [float(column[0]) for column in sums.near] == [512, 0, 4 * 512, 515]
    parts = components(tables_of(512), sums)
    assert parts.kv_cache[0] == pytest.approx(8 * 1024 * (512 + 515) / (0.6 * 3e6), rel=1e-12)
    assert parts.prefill_attention[0] == pytest.approx(8 * 4096 * 4 * 512 / (0.5 * 1e9), rel=1e-12)


@pytest.mark.parametrize("name", LIMITED)
@given(st.integers(0, 30_000), st.integers(1, 9000), st.integers(1, 500), st.booleans())
def test_more_context_is_never_cheaper_but_for_chunks(
    name: str, context: int, more: int, new: int, decode: bool
) -> None:
    """Chunked attention begins anew with every chunk: there, a context that is whole chunks longer costs as much."""
    tables = limited(name)
    assert tables.reaches is not None
    chunk = int(tables.reaches[:, 1].max())
    more = chunk * (1 + more // chunk) if chunk else more

    def step(before: int) -> float:
        return time_of(tables, [(1, before, 0)] if decode else [(new, before, 10**6)])

    assert step(context + more) >= step(context) * (1 - 1e-12)


@pytest.mark.parametrize("name", LIMITED)
def test_no_limit_costs_more_than_none(name: str) -> None:
    """Long contexts: where nothing is cut there is nothing to gain."""
    for batch in ([(1, 20_000, 0)] * 8, [(2000, 20_000, 30_000)]):
        whole = StepSums.from_requests([batch]).one()
        near = StepSums.from_requests([batch], limited(name).reaches).one().near
        for kind in range(len(near) // len(NEAR)):
            assert near[4 * kind] <= whole.decode_context + whole.decode_tokens
            assert near[4 * kind + 2] <= whole.prefill_pairs
            assert near[4 * kind + 3] <= whole.prefill_context + whole.prefill_tokens


def test_steps_of_equal_requests_need_no_single_contexts() -> None:
    reaches = tables_of(512).reaches
    exact = StepSums.from_requests([[(1, 700, 0)] * 5 + [(30, 900, 1000)] * 2, [(1, 100, 0)]], reaches)
    alike = StepSums.from_columns(exact.columns()[:, :7]).alike(reaches)
    assert np.array_equal(exact.columns(), alike.columns())


def test_steps_without_contexts_are_refused() -> None:
    with pytest.raises(NotSupportedError, match="steps without the contexts of their requests"):
        components(tables_of(512), StepSums.from_requests([[(1, 700, 0)]]))


def _one(spec: ModelSpec) -> ComponentTables:
    return component_tables(spec, load_gpu("H100"), 1, BUDGET, ROUND)


def test_layers_that_read_everything_have_no_sums_of_their_own() -> None:
    tables = _one(model())
    assert tables.reaches is None
    assert tables.near is None


KINDS = (*LIMITED, "gemma-2-9b-it", "gemma-3-27b-it", "mistral-7b-v0.1", "mimo-v2-flash", "qwen3-next-80b-a3b-instruct")


@pytest.mark.parametrize("name", [*KINDS, "kimi-linear-48b-a3b-instruct", "nvidia-nemotron-3-nano-30b-a3b-bf16"])
@pytest.mark.parametrize("gpu", ["H100", "L40S"])
def test_every_kind_of_layer_has_a_time_on_every_gpu(name: str, gpu: str) -> None:
    """With the shipped tables; where they are another GPU's, less surely."""
    here, there = load_gpu(gpu), load_gpu("H100")
    spec, tp = load_model(name), 4
    sums = StepSums.from_requests([[(1, 3000, 0)] * 8, [(500, 2000, 9000)]], near_of(spec, tp))
    times = step_times(component_tables(spec, here, tp, 2048, load_efficiency(here)), sums, CHANGING_NOTHING)
    assert np.all(np.isfinite(times))
    assert np.all(times > 0)
    sd, known = (component_sd(spec, one, tp, load_efficiency(one)) for one in (here, there))
    if any(isinstance(op, StateOp) for op in spec.mixers(tp)) or name.startswith("deepseek"):
        assert sd["kv_cache"] >= known["kv_cache"]


def near_of(spec: ModelSpec, tp: int) -> Any:
    reaches = reaches_of(attention_ops(spec, tp))
    return np.array(reaches, np.int64) if reaches else None
