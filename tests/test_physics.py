"""Physics of a step as properties: what no parameters a fit may return can undo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.batch import StepTable
from roofml.components import COMPONENTS, component_tables, components
from roofml.efficiency import load_efficiency
from roofml.gpu import load_gpu
from roofml.model import load_model
from roofml.params import LOWER, PARAMETERS, PRIOR_VALUES, UPPER, from_coordinates, split
from roofml.steptime import StepParameters, blend, step_time, step_times

BUDGET = 4096
H100 = load_gpu("H100")
EFFICIENCY = load_efficiency(H100)
MODELS = ["llama-2-7b-hf", "codellama-34b-instruct-hf", "mixtral-8x7b-v0.1", "qwen3-30b-a3b"]
TABLES = {name: component_tables(load_model(name), H100, 2, BUDGET, EFFICIENCY) for name in MODELS}

requests = st.one_of(
    st.tuples(st.integers(1, 512), st.integers(0, 4000)).map(lambda r: (r[0], r[1], r[0] + r[1])),  # a prompt's chunk
    st.integers(1, 8000).map(lambda context: (1, context, 0)),  # a decode
)
batches = st.lists(requests, min_size=1, max_size=7)
models = st.sampled_from(MODELS)


@st.composite
def parameters(draw) -> StepParameters:
    """Anything a fit may return, corrections over the whole of their range."""
    share = np.array(draw(st.lists(st.floats(0, 1), min_size=len(PARAMETERS), max_size=len(PARAMETERS))))
    return split(from_coordinates(LOWER + share * (UPPER - LOWER)))[0]


def time_of(model: str, batch, p: StepParameters) -> float:
    return float(step_times(TABLES[model], StepTable.from_batches([batch]), p)[0])


def not_shorter(longer: float, shorter: float) -> bool:
    return longer >= shorter * (1 - 1e-12)  # sums in another order round differently


@given(models, batches, requests, parameters())
@settings(max_examples=200, deadline=None)
def test_one_more_request_never_shortens_a_step(model, batch, request, p):
    assert not_shorter(time_of(model, [*batch, request], p), time_of(model, batch, p))


@given(models, batches, st.integers(0, 6), st.integers(1, 512), parameters())
@settings(max_examples=200, deadline=None)
def test_more_new_tokens_or_context_never_shorten_a_step(model, batch, which, more, p):
    index = which % len(batch)
    new, context, prompt = batch[index]
    deeper = [*batch[:index], (new, context + more, prompt + more if prompt else 0), *batch[index + 1 :]]
    assert not_shorter(time_of(model, deeper, p), time_of(model, batch, p))
    if prompt:
        wider = [*batch[:index], (new + more, context, prompt + more), *batch[index + 1 :]]
        assert not_shorter(time_of(model, wider, p), time_of(model, batch, p))


@given(models, st.lists(requests, min_size=1, max_size=7), st.lists(requests, min_size=1, max_size=7))
@settings(max_examples=200, deadline=None)
def test_a_mixed_step_costs_between_its_halves_and_their_sum(model, one, other):
    """With the shipped priors: a batch reads its weights once where two steps read them twice."""
    p = split(PRIOR_VALUES)[0]
    both, first, second = (time_of(model, batch, p) for batch in ([*one, *other], one, other))
    assert not_shorter(both, max(first, second))
    assert not_shorter(first + second, both)


@given(batches, parameters())
@settings(max_examples=60, deadline=None)
def test_more_or_wider_layers_never_shorten_a_step(batch, p):
    base = load_model("llama-2-7b-hf")
    ((layer, count),) = base.layers
    deeper = replace(base, layers=((layer, count + 1),))
    wider = replace(base, layers=((replace(layer, mlp=replace(layer.mlp, width=layer.mlp.width + 256)), count),))
    table = StepTable.from_batches([batch])
    times = [
        float(step_times(component_tables(m, H100, 2, BUDGET, EFFICIENCY), table, p)[0]) for m in (base, deeper, wider)
    ]
    assert not_shorter(times[1], times[0])
    assert not_shorter(times[2], times[0])


@given(models, batches)
@settings(max_examples=60, deadline=None)
def test_twice_the_gpu_is_half_the_time(model, batch):
    """Compute and memory components halve exactly with both peak rates; links are another rate and stay."""
    fast = replace(
        H100,
        flops_per_us={dtype: 2 * rate for dtype, rate in H100.flops_per_us.items()},
        bandwidth_bytes_per_us=2 * H100.bandwidth_bytes_per_us,
    )
    table = StepTable.from_batches([batch])
    slow = components(TABLES[model], table)[0]
    quick = components(component_tables(load_model(model), fast, 2, BUDGET, EFFICIENCY), table)[0]
    link = COMPONENTS.index("communication")
    np.testing.assert_allclose(np.delete(quick, link), np.delete(slow, link) / 2, rtol=1e-12)
    assert quick[link] == slow[link]


@given(st.sampled_from(["llama-2-7b-hf", "codellama-34b-instruct-hf"]), batches)
@settings(max_examples=60, deadline=None)
def test_tensor_parallelism_divides_work_exactly(model, batch):
    """Heads, widths and a vocabulary of 32,000 divide by 2 and 4: so do FLOP, weights and KV of a rank."""
    table = StepTable.from_batches([batch])
    by_tp = {
        tp: components(component_tables(load_model(model), H100, tp, BUDGET, EFFICIENCY), table)[0] for tp in (1, 2, 4)
    }
    link = COMPONENTS.index("communication")
    assert by_tp[1][link] == 0
    for tp in (2, 4):
        np.testing.assert_allclose(np.delete(by_tp[tp], link), np.delete(by_tp[1], link) / tp, rtol=1e-12)
    assert by_tp[4][link] > by_tp[2][link] > 0


@given(models, batches)
@settings(max_examples=60, deadline=None)
def test_prefill_and_decode_gemm_sum_to_the_mixed_step(model, batch):
    tables, table = TABLES[model], StepTable.from_batches([batch])
    values = dict(zip(COMPONENTS, components(tables, table)[0], strict=True))
    tokens = int(table.prefill_tokens[0] + table.decode_tokens[0])
    together = tables.gemm[tokens] + tables.logits_per_request * table.requests[0]
    assert values["prefill_gemm"] + values["decode_gemm"] == pytest.approx(together, rel=1e-12)
    assert values["prefill_gemm"] >= 0


@given(models, parameters())
@settings(max_examples=60, deadline=None)
def test_the_empty_batch_costs_nothing(model, p):
    assert time_of(model, [], p) == 0.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1))
def test_blend_lies_between_max_and_sum(a, b, w):
    value = blend(a, b, w)
    slack = 1e-9 * (a + b) + 1e-12  # rounding
    assert max(a, b) - slack <= value <= a + b + slack
    assert blend(a, b, 1.0) == pytest.approx(max(a, b))
    assert blend(a, b, 0.0) == a + b


def test_numpy_numba_and_jax_agree():
    """One Python function, three ways to run it: the same µs to the last bits of a double."""
    import jax
    from numba import njit

    rng = np.random.default_rng(0)
    batch = [[(1, int(c), 0) for c in rng.integers(100, 3000, n)] + [(200, 0, 200)] for n in (1, 8, 64, 120)]
    table, tables = StepTable.from_batches(batch), TABLES["mixtral-8x7b-v0.1"]
    p = StepParameters(*map(float, split(PRIOR_VALUES)[0]))
    parts = tuple(components(tables, table).T)
    columns = (table.prefill_tokens + table.decode_tokens, table.requests, 1.0 * (table.prefill_tokens > 0))
    with_numpy = step_time(parts, *columns, tables.layers, p)
    compiled = njit(step_time)
    for i in range(len(table)):
        one = compiled(tuple(float(part[i]) for part in parts), *(float(c[i]) for c in columns), tables.layers, p)
        assert one == pytest.approx(with_numpy[i], rel=1e-14)
    with jax.enable_x64(True):
        traced = jax.jit(step_time)(parts, *columns, tables.layers, p)
        np.testing.assert_allclose(np.asarray(traced), with_numpy, rtol=1e-14)


class TestHandComputed:
    """Llama-2-7B on one H100, worked out from its config: d 4096, 32 layers, 32 heads of 128, MLP 11008, V 32000."""

    tables = component_tables(load_model("llama-2-7b-hf"), H100, 1, BUDGET, EFFICIENCY)
    layer_weights = 4096 * 12288 + 4096 * 4096 + 4096 * 22016 + 11008 * 4096  # qkv, output, gate+up, down

    def test_weights(self):
        # float16: 2 bytes; 3.35 TB/s = 3.35e6 bytes/µs; MBU 0.85.
        read = 2 * (32 * self.layer_weights + 32000 * 4096) / (3.35e6 * 0.85)
        assert self.tables.weights[1] == pytest.approx(read, rel=1e-12)  # 4,640 µs
        assert self.tables.weights[4096] == pytest.approx(read, rel=1e-12)
        assert self.tables.weights[0] == 0

    def test_gemm(self):
        # 989.4 TFLOP/s = 989.4e6 FLOP/µs; the measured efficiency is 0.839.
        assert self.tables.gemm[2048] == pytest.approx(
            2 * 2048 * 32 * self.layer_weights / (989.4e6 * 0.839), rel=1e-12
        )

    def test_kv_cache(self):
        # 2 (keys, values) x 32 heads x 128 x 2 bytes x 32 layers = 524,288 bytes a token; MHA streams at 0.866.
        assert self.tables.kv_token == pytest.approx(524_288 / (3.35e6 * 0.866), rel=1e-12)

    def test_attention(self):
        # 4 x 32 heads x 128 FLOP a query-key pair and layer; MFU 0.505.
        pair = 4 * 32 * 128 * 32 / (989.4e6 * 0.505)
        assert self.tables.prefill_pair == pytest.approx(pair, rel=1e-12)
        # 100 new tokens after 50: 100·50 + 100·101/2 = 10,050 pairs.
        steps = StepTable.from_batches([[(100, 50, 150)]])
        assert components(self.tables, steps)[0][2] == pytest.approx(10_050 * pair, rel=1e-12)

    def test_logits(self):
        assert self.tables.logits_per_request == pytest.approx(2 * 4096 * 32000 / 989.4e6, rel=1e-12)

    def test_communication(self):
        # TP 2: 2·32 + 1 all-reduces of 32 x 4096 x 2 = 262,144 bytes, measured at 6.3 µs each.
        two = component_tables(load_model("llama-2-7b-hf"), H100, 2, BUDGET, EFFICIENCY)
        assert two.communication[32] == pytest.approx(65 * 6.3, rel=1e-12)

    def test_experts(self):
        # Mixtral: 2 of 8 experts a token; 3 tokens touch 8·(1 - 0.75^3) = 4.625 of them on average.
        one, three = (TABLES["mixtral-8x7b-v0.1"].weights[m] for m in (1, 3))
        expert = 2 * 32 * 3 * 4096 * 14336 / 2 / (3.35e6 * 0.779)  # one expert, all layers, a rank of two
        assert three - one == pytest.approx((4.625 - 2) * expert, rel=1e-9)


def test_dense_and_sparse_units():
    """Datasheet units: 3.35 TB/s is 3.35e6 bytes/µs (not TiB), 989.4 TFLOP/s dense is 989.4e6 FLOP/µs."""
    assert H100.bandwidth_bytes_per_us == 3.35e6
    assert H100.flops_per_us["bfloat16"] == 989.4e6


@pytest.mark.parametrize("batch", [[(0, 5, 10)], [(3, 10, 10)], [(1, -1, 0)]])
def test_impossible_requests_are_refused(batch):
    from roofml.errors import InputError

    with pytest.raises(InputError):
        StepTable.from_batches([batch])


def test_throughput_bends_where_compute_takes_over():
    """A step of 1,024 decodes costs more than twice one of 256, whatever a fit returns for the parameters (BLIS #1123).

    The bend is in the physics: no correction reaches zero and no blend hides arithmetic behind less memory traffic.
    """
    lowest = split(from_coordinates(np.where(np.isfinite(LOWER), LOWER, 0)))[0]
    p = lowest._replace(decode_gemm=1.0, weights=1.0, max_weight=1.0)
    few, many = (time_of("codellama-34b-instruct-hf", [(1, 10, 0)] * n, p) for n in (256, 1024))
    assert many > 2 * few
