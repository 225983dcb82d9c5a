"""Small models, tables, parameters and runs that tests make up, so that no number here waits for a measurement."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.kernel_tables import GemmTable, Rows
from roofml.hardware.kernels import Efficiency
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.components import ComponentTables, component_tables
from roofml.latency.parameters import PARAMETERS, RequestParameters, StepParameters
from roofml.models.load import load_model
from roofml.models.spec import ModelSpec, model_from_config
from roofml.traces.run import Run
from roofml.traces.server import Server

BUDGET = 2048

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MIXTRAL = LLAMA | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}


def rows(dtype: str, sizes: list[list[float]], values: list[list[float]]) -> Rows:
    return Rows("round.csv", {"sd": "0"}, (dtype,) * len(sizes), np.array(sizes), np.array(values))


ROUND = Efficiency(
    # Reading weights reaches 0.9 of the bandwidth, computing 0.8 of the peak, whatever the shape.
    gemm=GemmTable(
        tokens=np.array([1.0, 256.0, 4096.0]),
        n=np.array([1.0, 65536.0]),
        k=np.array([1.0, 65536.0]),
        slowdown={"bfloat16": np.broadcast_to(1 / np.array([0.9, 0.9, 0.8]), (2, 2, 3))},
        sd=0.0,
    ),
    moe=rows("bfloat16", [[4, 2, 1024, 2816]], [[0.75, 0.75, 0.4]]),
    moe_tokens=np.array([1.0, 256.0, 65536.0]),
    prefill_attention_rows=rows("bfloat16", [[32, 32, 128]], [[0.5]]),
    decode_attention_rows=rows("bfloat16", [[32, 32, 128], [32, 4, 128]], [[0.0, 0.0, 0.9, 0.0], [0.0, 0.0, 0.6, 0.0]]),
    latent_prefill_rows=None,
    latent_decode_rows=None,
    allreduce_bytes=np.array([1000.0, 2_000_000.0]),
    allreduce_us={2: np.array([4.0, 24.0]), 4: np.array([5.0, 35.0]), 8: np.array([6.0, 46.0])},
    source="round numbers for hand-computed cases",
)
"""So that a case can be computed by hand, and a new measurement changes none."""

GPU = Gpu(
    name="Round",
    flops_per_us={"bfloat16": 1e9, "float16": 1e9, "tf32": 5e8},
    bandwidth_bytes_per_us=3e6,
    memory_bytes=80 * 2**30,
    interconnect_bytes_per_us=4.5e5,
    sm_count=132,
    source="1,000 TFLOP/s and 3 TB/s",
)


def model(config: dict[str, Any] = LLAMA, **changes: Any) -> ModelSpec:
    return model_from_config({**config, **changes}, "toy")


def plain_tables(gemm_us: float = 0.0, kv_token_us: float = 0.0, budget: int = BUDGET, **more: Any) -> ComponentTables:
    """Tables of one layer where so long is all that a new token, and a token of context or of KV written, takes."""
    tokens = np.arange(budget + 1.0)
    return ComponentTables(
        gemm=gemm_us * tokens,
        weights=0 * tokens,
        expert_weights=0 * tokens,
        attention_items=0 * tokens,
        communication=0 * tokens,
        logits_per_request=0.0,
        prefill_pair=0.0,
        decode_pair=0.0,
        kv_token=kv_token_us,
        grouped_kv_token=0.0,
        layers=1.0,
        **more,
    )


@cache
def tables(name: str = "llama-2-7b-hf", tp: int = 1, gpu: str = "H100", budget: int = BUDGET) -> ComponentTables:
    """Tables of a shipped model with the measured efficiencies."""
    sheet = load_gpu(gpu)
    return component_tables(load_model(name), sheet, tp, budget, load_efficiency(sheet))


SHIPPED = (("llama-2-7b-hf", 1), ("codellama-34b-instruct-hf", 2), ("llama-2-70b-hf", 4), ("mixtral-8x7b-v0.1", 2))
"""Multi-head, grouped-query and mixture-of-experts models, at the tensor parallel sizes they are served with."""

any_tables = st.sampled_from(SHIPPED).map(lambda pair: tables(*pair))


def _values(parameter: Any) -> st.SearchStrategy[float]:
    if parameter.logarithmic:
        return st.floats(float(np.log(parameter.lower)), float(np.log(parameter.upper))).map(lambda x: float(np.exp(x)))
    return st.floats(parameter.lower, parameter.upper)


BY_GROUP = {parameter.name: _values(parameter) for parameter in PARAMETERS}
step_parameters = st.builds(StepParameters, **{name: BY_GROUP[name] for name in StepParameters._fields})
"""Any step parameters within their bounds."""
request_parameters = st.builds(RequestParameters, **{name: BY_GROUP[name] for name in RequestParameters._fields})

Request = tuple[int, int, int]
"""New tokens, context, prompt tokens."""
prefills = st.tuples(st.integers(1, 200), st.integers(0, 2000), st.integers(0, 500)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[0] + drawn[1] + drawn[2])
)
decodes = st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda drawn: (1, max(drawn), min(drawn)))
"""A context of at least the prompt."""

PLENTY = Server(
    model="toy",
    tensor_parallel=1,
    max_num_seqs=128,
    max_num_batched_tokens=BUDGET,
    block_size=16,
    num_gpu_blocks=10_000,
    max_model_len=4096,
)


def run_of(requests: list[tuple[float, int, int]], server: Server = PLENTY, groups: list[int] | None = None) -> Run:
    """A run of (arrival µs, prompt, output) rows; rows of one group >= 0 are the same prompt."""
    arrival, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    group = np.array(groups if groups is not None else [-1] * len(requests), dtype=np.int64)
    return Run(
        name="synthetic",
        server=server,
        request_id=np.arange(len(requests)) + 100,
        arrival_us=arrival.astype(np.float64),
        prompt_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        prefix_group=group,
        prefix_tokens=np.where(group >= 0, prompt, 0).astype(np.int64),
        ttft_us=np.full(len(requests), np.nan),
        e2e_us=np.full(len(requests), np.nan),
        ok=np.ones(len(requests), np.bool_),
    )
