"""Components: by hand with units, and what must hold of any model, GPU and batch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import (
    BUDGET,
    GPU,
    LLAMA,
    MIXTRAL,
    ROUND,
    SHIPPED,
    Request,
    any_tables,
    decodes,
    model,
    prefills,
    tables,
)

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.batch import StepSums
from roofml.latency.components import COMPONENTS, ComponentTables, component_tables, components, weights_us
from roofml.models.load import load_model
from roofml.util.errors import InputError

ROUNDING = 1e-12
"""Sums of a few float64 terms, taken in another order: some 1e-16 each."""

batches = st.lists(st.one_of(prefills, decodes), min_size=1, max_size=9)


def parts(tables: ComponentTables, batch: list[Request]) -> dict[str, float]:
    found = components(tables, StepSums.from_requests([batch]))
    return {name: float(time[0]) for name, time in found._asdict().items()}


@pytest.fixture(scope="module")
def llama7b() -> ComponentTables:
    """Llama-2-7B (d 4096, 32 layers of 32 heads of 128, MLP 11008, vocabulary 32000, FP16) alone on an H100."""
    return component_tables(load_model("llama-2-7b-hf"), load_gpu("H100"), 1, BUDGET, ROUND)


# One hand-computed case each. A layer's matrices have 4096·4096·4 (Q, K, V, O) + 3·4096·11008 (gate, up, down) =
# 67,108,864 + 135,266,304 = 202,375,168 elements; 32 layers have 6,476,005,376; the LM head 4096·32000 = 131,072,000.
# H100: 989.4 TFLOP/s = 989.4e6 FLOP/µs, 3.35 TB/s = 3.35e6 bytes/µs. Efficiencies as in synthetic.ROUND.


def test_gemm_by_hand(llama7b: ComponentTables) -> None:
    """A prompt of 512: 2·512·6,476,005,376 FLOP at 0.8 of the peak, and one row of logits at the peak."""
    layers_us = 6_631_429_505_024 / (989.4e6 * 0.8)
    logits_us = 2 * 131_072_000 / 989.4e6
    assert parts(llama7b, [(512, 0, 512)])["prefill_gemm"] == pytest.approx(layers_us + logits_us, rel=ROUNDING)
    assert parts(llama7b, [(512, 0, 512)])["prefill_gemm"] == pytest.approx(8378.3, abs=0.1)
    assert parts(llama7b, [(512, 0, 512)])["decode_gemm"] == 0


def test_decode_gemm_by_hand(llama7b: ComponentTables) -> None:
    """Eight decodes: 16·6,476,005,376 FLOP at 0.8 of the peak and eight rows of logits."""
    expected = 103_616_086_016 / (989.4e6 * 0.8) + 8 * 262_144_000 / 989.4e6
    assert parts(llama7b, [(1, 100, 50)] * 8)["decode_gemm"] == pytest.approx(expected, rel=ROUNDING)
    assert parts(llama7b, [(1, 100, 50)] * 8)["prefill_gemm"] == 0


def test_prefill_attention_by_hand(llama7b: ComponentTables) -> None:
    """A chunk of 100 tokens after 300: 100·(300 + 50.5) = 35,050 pairs of 4·32·128·32 = 524,288 FLOP at MFU 0.5."""
    expected = 35_050 * 524_288 / (989.4e6 * 0.5)
    assert parts(llama7b, [(100, 300, 1000)])["prefill_attention"] == pytest.approx(expected, rel=ROUNDING)
    assert expected == pytest.approx(37.15, abs=0.01)


def test_decode_attention_by_hand(llama7b: ComponentTables) -> None:
    """Contexts 100 and 200, each token also sees itself: 302 pairs of 524,288 FLOP at MFU 0.5."""
    expected = 302 * 524_288 / (989.4e6 * 0.5)
    assert parts(llama7b, [(1, 100, 50), (1, 200, 50)])["decode_attention"] == pytest.approx(expected, rel=ROUNDING)


def test_weights_by_hand(llama7b: ComponentTables) -> None:
    """2·(6,476,005,376 + 131,072,000) bytes at 0.9 of the bandwidth, whatever the batch."""
    expected = 13_214_154_752 / (3.35e6 * 0.9)
    for batch in ([(1, 100, 50)], [(512, 0, 512), (1, 100, 50)]):
        assert parts(llama7b, batch)["weights"] == pytest.approx(expected, rel=ROUNDING)
    assert expected == pytest.approx(4382.8, abs=0.1)


def test_kv_cache_by_hand(llama7b: ComponentTables) -> None:
    """A decode at context 1000 reads 1000 tokens and writes one: 1001 · 2·32·128·2 bytes · 32 layers at MBU 0.9."""
    expected = 1001 * 524_288 / (3.35e6 * 0.9)
    assert parts(llama7b, [(1, 1000, 50)])["kv_cache"] == pytest.approx(expected, rel=ROUNDING)
    assert parts(llama7b, [(1, 999, 1000)])["kv_cache"] == pytest.approx(1000 / 1001 * expected, rel=ROUNDING)


def test_kv_cache_of_grouped_queries_by_hand() -> None:
    """CodeLlama-34B, TP2: 4 of 8 KV heads of 128, BF16, 48 layers = 98,304 bytes a token, at the grouped MBU 0.6."""
    grouped = component_tables(load_model("codellama-34b-instruct-hf"), load_gpu("H100"), 2, 16, ROUND)
    assert parts(grouped, [(1, 1000, 50)])["kv_cache"] == pytest.approx(1001 * 98_304 / (3.35e6 * 0.6), rel=ROUNDING)


def test_communication_by_hand() -> None:
    """TP2: 65 all-reduces of 4096·2 bytes a token, between 4 µs at 1 kB and 24 µs at 2 MB, then 24 µs per 2 MB."""
    two = component_tables(load_model("llama-2-7b-hf"), load_gpu("H100"), 2, BUDGET, ROUND)
    inside = 65 * (4 + 20 * (128 * 8192 - 1000) / 1_999_000)
    beyond = 65 * 24 * (1024 * 8192 / 2_000_000)
    assert parts(two, [(128, 0, 128)])["communication"] == pytest.approx(inside, rel=ROUNDING)
    assert parts(two, [(1024, 0, 1024)])["communication"] == pytest.approx(beyond, rel=ROUNDING)


def test_there_is_no_communication_on_one_gpu(llama7b: ComponentTables) -> None:
    assert not llama7b.communication.any()


# A mixture of experts.


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_weights_of_a_mixture_are_those_of_the_experts_that_tokens_hit(tokens: int) -> None:
    """Each token takes 2 of 4 experts, every pair as likely: the mean number hit, counted over all draws."""
    draws = product(combinations(range(4), 2), repeat=tokens)
    hit = np.mean([len({expert for pair in draw for expert in pair}) for draw in draws])
    mixture = component_tables(model(MIXTRAL), GPU, 1, 64, ROUND)
    expert_bytes = 8 * 3 * 1024 * 2816 * 2
    # Q, K, V, O and router (4 experts) of 8 layers, and the LM head.
    dense_bytes = 2 * (8 * (1024 * (2 * 1024 + 2 * 256) + 1024 * 4) + 1024 * 32000)
    found = weights_us(model(MIXTRAL), GPU, 1, np.array([tokens], np.float64), ROUND, experts=True)[0]
    assert found == pytest.approx(hit * expert_bytes / (3e6 * 0.75), rel=ROUNDING)
    assert mixture.weights[tokens] == pytest.approx(dense_bytes / (3e6 * 0.9), rel=ROUNDING)


def test_a_mixture_computes_the_experts_of_each_token() -> None:
    """100 tokens through 2 experts each at 0.4 of the peak; attention and router at 0.8."""
    mixture = component_tables(model(MIXTRAL), GPU, 1, 128, ROUND)
    experts = 2 * 100 * 8 * 2 * 3 * 1024 * 2816 / (1e9 * 0.4)
    dense = 2 * 100 * 8 * (1024 * (2 * 1024 + 2 * 256) + 1024 * 4) / (1e9 * 0.8)
    assert mixture.gemm[100] == pytest.approx(experts + dense, rel=ROUNDING)


def test_many_tokens_hit_every_expert() -> None:
    """8 experts, 2 a token: 1 - (3/4)^2048 is 1 to the last digit, and 2 rather than 1 token hit 1.75 times as many."""
    measured = tables("mixtral-8x7b-v0.1", 2)
    assert measured.weights[-1] == measured.weights[-2]
    assert measured.weights[2] < 1.75 * measured.weights[1]


# Any model, any batch.


@given(any_tables, batches)
def test_prefill_and_decode_gemm_add_up_to_one_gemm_of_all_tokens(
    tables: ComponentTables, batch: list[Request]
) -> None:
    found, steps = parts(tables, batch), StepSums.from_requests([batch])
    tokens = int(steps.prefill_tokens[0] + steps.decode_tokens[0])
    together = tables.gemm[tokens] + tables.logits_per_request * len(batch)
    assert found["prefill_gemm"] + found["decode_gemm"] == pytest.approx(together, rel=ROUNDING)
    assert min(found.values()) >= 0


@given(any_tables)
def test_the_empty_batch_costs_nothing(tables: ComponentTables) -> None:
    assert list(parts(tables, []).values()) == [0.0] * len(COMPONENTS)


def test_tables_never_fall() -> None:
    for shipped in SHIPPED:
        for table in tables(*shipped)[:3]:
            assert np.all(np.diff(table) >= 0)


@cache
def at_speed(name: str, factor: float) -> ComponentTables:
    """Tables of a model on two H100 whose peak rates are `factor` times as high."""
    gpu = load_gpu("H100")
    flops = {dtype: factor * rate for dtype, rate in gpu.flops_per_us.items()}
    faster = replace(gpu, flops_per_us=flops, bandwidth_bytes_per_us=factor * gpu.bandwidth_bytes_per_us)
    return component_tables(load_model(name), faster, 2, BUDGET, load_efficiency(gpu))


@given(batches, st.sampled_from([name for name, _ in SHIPPED]))
def test_doubling_both_rates_halves_compute_and_memory(batch: list[Request], name: str) -> None:
    """Exactly, as two is a power of two. All-reduces and kernel launches are measured times and stay as they are."""
    slow_parts, fast_parts = parts(at_speed(name, 1), batch), parts(at_speed(name, 2), batch)
    for measured in ("communication", "attention_items"):
        assert fast_parts.pop(measured) == slow_parts.pop(measured)
    assert fast_parts == {component: time / 2 for component, time in slow_parts.items()}


@given(batches, st.sampled_from([2, 4, 8]))
def test_tensor_parallelism_divides_compute_weights_and_cache_exactly(batch: list[Request], tp: int) -> None:
    """Exactly, as tp is a power of two that divides heads, KV heads, widths and the vocabulary."""
    alone = parts(component_tables(model(num_key_value_heads=16), GPU, 1, BUDGET, ROUND), batch)
    shared = parts(component_tables(model(num_key_value_heads=16), GPU, tp, BUDGET, ROUND), batch)
    assert alone.pop("communication") == 0
    assert shared.pop("communication") > 0
    assert shared == {component: time / tp for component, time in alone.items()}


@given(batches, st.integers(1, 40), st.integers(1, 40))
def test_more_layers_take_more(batch: list[Request], layers: int, more: int) -> None:
    few = parts(component_tables(model(num_hidden_layers=layers), GPU, 2, BUDGET, ROUND), batch)
    many = parts(component_tables(model(num_hidden_layers=layers + more), GPU, 2, BUDGET, ROUND), batch)
    assert all(many[component] >= few[component] for component in COMPONENTS)
    assert many["prefill_gemm"] + many["decode_gemm"] > few["prefill_gemm"] + few["decode_gemm"]


WIDER: list[dict[str, int]] = [
    {"hidden_size": 2048},
    {"intermediate_size": 4096},
    {"num_attention_heads": 32},
    {"num_key_value_heads": 8},
    {"head_dim": 128},
    {"vocab_size": 64000},
]


@given(batches, st.sampled_from(WIDER), st.sampled_from([LLAMA, MIXTRAL]))
def test_wider_layers_take_more(batch: list[Request], change: dict[str, int], config: dict[str, object]) -> None:
    narrow = parts(component_tables(model(config), GPU, 2, BUDGET, ROUND), batch)
    wide = parts(component_tables(model(config, **change), GPU, 2, BUDGET, ROUND), batch)
    assert all(wide[component] >= narrow[component] for component in COMPONENTS)
    assert sum(wide.values()) > sum(narrow.values())


# What is refused.


def test_heads_that_do_not_divide_are_refused() -> None:
    """33,024 words divide by 3, 16 heads do not."""
    with pytest.raises(InputError, match="num_attention_heads"):
        component_tables(model(vocab_size=33024), GPU, 3, 16, ROUND)


def test_an_all_reduce_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"tensor parallel size 16: .* \(known: 1, 2, 4, 8\)"):
        component_tables(model(num_key_value_heads=16), GPU, 16, 16, ROUND)
