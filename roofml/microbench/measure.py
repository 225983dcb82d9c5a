"""Measure: time the kernels that a model needs on this machine, with torch.

Kernels are torch's own: `linear` for products, `scaled_dot_product_attention` with grouped heads and a contiguous cache
for attention, a plain loop over the experts hit for mixtures. An engine's tuned kernels can be faster. CUDA events time
every repeat alone, after a buffer larger than any cache was written, because a step never finds its data in the cache.
The result is the median of the repeats.

Rows have the columns of `derive.COLUMNS`, times in ms.
"""

from __future__ import annotations

import importlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.models.operations import AttentionOp
from roofml.models.spec import ModelSpec
from roofml.util.errors import InputError

Row = dict[str, Any]

CACHE_BYTES = 256_000_000
"""Bytes written between repeats: several times the largest cache of a GPU."""
DTYPE = "bfloat16"


@dataclass(frozen=True)
class Sweep:
    """Sizes to measure at."""

    tokens: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
    """M of products."""
    batches: tuple[int, ...] = (1, 8, 16, 32, 64, 128, 256)
    contexts: tuple[int, ...] = (1, 16, 256, 1024, 4096, 16384)
    """Tokens in the cache, for decoding."""
    prompts: tuple[int, ...] = (1024, 2048, 4096, 8192)
    messages: tuple[int, ...] = (128, *(2**p for p in range(16, 28)))
    """Bytes of an all-reduce."""
    repeats: int = 20
    layers: int = 4
    """Layers of the decoder whose whole steps are timed; further layers would repeat them."""
    seconds: float = 900.0
    """Time after which no new kernel is begun, s."""
    most_bytes: float = 20e9
    """Largest operands of one kernel, bytes."""


def toy() -> Sweep:
    """A sweep so small that a CPU takes seconds: it shows that everything runs, not how fast."""
    return Sweep((1, 4), (1, 2), (1, 16), (16,), (128, 1024), 2, 1, 20.0, 2e9)


def load_torch() -> Any:
    """The torch module. Raises InputError if it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise InputError("measuring needs torch: pip install 'roofml[measure]'") from None


class Clock:
    """Times kernels on one device."""

    def __init__(self, device: str, sweep: Sweep) -> None:
        self.torch = load_torch()
        if device == "cuda" and not self.torch.cuda.is_available():
            raise InputError("no NVIDIA GPU that torch can use is here (--device cpu rehearses at toy sizes)")
        self.device, self.sweep = device, sweep
        self.dtype = getattr(self.torch, DTYPE)
        self.until = time.monotonic() + sweep.seconds
        self.eraser = self.torch.empty(CACHE_BYTES if device == "cuda" else 1024, dtype=self.torch.uint8, device=device)

    def random(self, *shape: int) -> Any:
        """A tensor of random numbers; zeros would be faster than any real data."""
        return self.torch.randn(*shape, dtype=self.torch.float32).to(self.device, self.dtype)

    def ms(self, kernel: Callable[[], Any]) -> float:
        """Median time of `kernel` over the repeats, ms, after three to warm up."""
        for _ in range(3):
            kernel()
        times: list[float] = []
        for _ in range(self.sweep.repeats):
            self.eraser.zero_()
            if self.device == "cuda":
                start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                kernel()
                end.record()
                end.synchronize()
                times.append(float(start.elapsed_time(end)))
            else:
                begun = time.perf_counter()
                kernel()
                times.append(1e3 * (time.perf_counter() - begun))
        return float(np.median(times))

    @property
    def over(self) -> bool:
        """Whether the time for this sweep has run out."""
        return time.monotonic() > self.until


def environment(clock: Clock) -> dict[str, str]:
    """The machine of the measurements: device, driver, clocks, versions."""
    torch = clock.torch
    facts = {"torch": str(torch.__version__), "python": platform.python_version(), "device": clock.device}
    if clock.device != "cuda":
        return {**facts, "device": platform.processor() or platform.machine()}
    facts |= {"device": str(torch.cuda.get_device_name()), "cuda": str(torch.version.cuda)}
    query = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return facts
    return facts | dict(
        zip(("driver", "sm clock", "memory clock", "most sm clock", "power limit"), answer.split(", "), strict=False)
    )


def gemms(clock: Clock, model: ModelSpec, tp: int) -> Iterable[Row]:
    """Every dense product of the model, at each M."""
    linear = clock.torch.nn.functional.linear
    for n, k in sorted({(gemm.n, gemm.k) for gemm in model.gemms(tp) if not gemm.experts}):
        weight = clock.random(n, k)
        for m in clock.sweep.tokens:
            if clock.over:
                return
            rows = clock.random(m, k)
            latency = clock.ms(lambda rows=rows, weight=weight: linear(rows, weight))
            yield {"gemm_dtype": DTYPE, "m": m, "n": n, "k": k, "latency": latency}


def mixtures(clock: Clock, model: ModelSpec, tp: int) -> Iterable[Row]:
    """The routed experts, with even routing: gate, up and down of every expert that is hit."""
    ups = {gemm for gemm in model.gemms(tp) if gemm.name in {"expert_gate_up", "expert_up"}}
    for up in sorted(ups, key=lambda gemm: (gemm.n, gemm.k)):
        gated = up.name == "expert_gate_up"
        hidden, inter = up.k, up.n // (2 if gated else 1)
        if 6.0 * up.experts * hidden * inter > clock.sweep.most_bytes:
            continue
        rising, falling = clock.random(up.experts, up.n, hidden), clock.random(up.experts, hidden, inter)
        for m in clock.sweep.tokens:
            if clock.over:
                return
            forward = _experts(clock, clock.random(m, hidden), rising, falling, up.experts_per_token, gated)
            yield {
                "moe_dtype": DTYPE, "num_tokens": m, "hidden_size": hidden, "inter_size": inter,
                "topk": up.experts_per_token, "num_experts": up.experts, "moe_tp_size": 1, "moe_ep_size": 1,
                "distribution": "balanced", "latency": clock.ms(_graphed(clock, forward)),
            }  # fmt: skip


def _experts(clock: Clock, tokens: Any, rising: Any, falling: Any, top_k: int, gated: bool) -> Callable[[], None]:
    """A pass of `tokens` (M, hidden) through experts (experts, n, k) that each get the same share of M·top_k rows."""
    functional = clock.torch.nn.functional
    experts, routed = len(rising), len(tokens) * top_k
    shares = [routed // experts + (expert < routed % experts) for expert in range(experts)]

    def forward() -> None:
        for expert, share in enumerate(shares):
            if share:
                middle = functional.linear(tokens[:share], rising[expert])
                if gated:
                    gate, middle = middle.chunk(2, dim=-1)
                    middle = functional.silu(gate) * middle
                functional.linear(middle, falling[expert])

    return forward


def attentions(model: ModelSpec, tp: int) -> list[tuple[int, int, int]]:
    """(heads, KV heads, head size) of every ordinary attention of the model, on one rank."""
    ops = (op for op in model.mixers(tp) if isinstance(op, AttentionOp) and op.name == "attention")
    return sorted({(op.heads, op.kv_heads, op.qk_dim) for op in ops})


def prefill_attention(clock: Clock, model: ModelSpec, tp: int) -> Iterable[Row]:
    """Causal attention of whole prompts."""
    attend = clock.torch.nn.functional.scaled_dot_product_attention
    for (heads, kv_heads, head_dim), batch, length in (
        (shape, batch, length)
        for shape in attentions(model, tp)
        for batch in clock.sweep.batches
        for length in clock.sweep.prompts
    ):
        if clock.over:
            return
        if 2.0 * batch * length * (heads + 2 * kv_heads) * head_dim > clock.sweep.most_bytes:
            continue
        query = clock.random(batch, heads, length, head_dim)
        key, value = (clock.random(batch, kv_heads, length, head_dim) for _ in range(2))
        latency = clock.ms(
            lambda q=query, k=key, v=value, grouped=kv_heads < heads: attend(
                q, k, v, is_causal=True, enable_gqa=grouped
            )
        )
        yield _attention_row(batch, length, None, heads, kv_heads, head_dim, latency)


def decode_attention(clock: Clock, model: ModelSpec, tp: int) -> Iterable[Row]:
    """One query token of each request against its cache."""
    attend = clock.torch.nn.functional.scaled_dot_product_attention
    for (heads, kv_heads, head_dim), batch, context in (
        (shape, batch, context)
        for shape in attentions(model, tp)
        for batch in clock.sweep.batches
        for context in clock.sweep.contexts
    ):
        if clock.over:
            return
        if 4.0 * batch * context * kv_heads * head_dim > clock.sweep.most_bytes:
            continue
        query = clock.random(batch, heads, 1, head_dim)
        key, value = (clock.random(batch, kv_heads, context, head_dim) for _ in range(2))
        latency = clock.ms(
            lambda q=query, k=key, v=value, grouped=kv_heads < heads: attend(q, k, v, enable_gqa=grouped)
        )
        yield _attention_row(batch, 1, context - 1, heads, kv_heads, head_dim, latency)


def _attention_row(
    batch: int, length: int, step: int | None, heads: int, kv_heads: int, head_dim: int, latency: float
) -> Row:
    row = {"kv_cache_dtype": DTYPE, "batch_size": batch, "isl": length}
    if step is not None:
        row["step"] = step
    return {
        **row, "num_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "latency": latency,
    }  # fmt: skip


def decoder_steps(clock: Clock, model: ModelSpec, tp: int) -> Iterable[Row]:
    """Whole decode steps of `sweep.layers` layers with random weights, inside a CUDA graph: batch, context, ms.

    Norms, activation and the order of kernels are a decoder's; rotary embedding and writing to the cache are left out.
    Only models of dense layers with ordinary attention have rows.
    """
    functional = clock.torch.nn.functional
    by_name = {gemm.name: gemm for gemm in model.gemms(tp)}
    if not {"qkv", "attention_output", "gate_up", "down"} <= set(by_name):
        return
    ((heads, kv_heads, head_dim), *_) = attentions(model, tp)
    weights = [
        {
            name: clock.random(by_name[name].n, by_name[name].k)
            for name in ("qkv", "attention_output", "gate_up", "down")
        }
        for _ in range(clock.sweep.layers)
    ]
    norm = clock.torch.ones(model.hidden_size, dtype=clock.dtype, device=clock.device)
    for batch in clock.sweep.batches:
        for context in clock.sweep.contexts:
            cache_bytes = 4.0 * clock.sweep.layers * batch * context * kv_heads * head_dim
            if clock.over or cache_bytes > clock.sweep.most_bytes:
                continue
            caches = [tuple(clock.random(batch, kv_heads, context, head_dim) for _ in range(2)) for _ in weights]
            hidden = clock.random(batch, model.hidden_size)

            def forward(hidden: Any = hidden, caches: Any = caches, batch: int = batch) -> Any:
                for layer, (key, value) in zip(weights, caches, strict=True):
                    normed = functional.rms_norm(hidden, (model.hidden_size,), norm)
                    query = functional.linear(normed, layer["qkv"])[:, : heads * head_dim]
                    query = query.reshape(batch, heads, 1, head_dim)
                    mixed = functional.scaled_dot_product_attention(query, key, value, enable_gqa=kv_heads < heads)
                    hidden = hidden + functional.linear(mixed.reshape(batch, -1), layer["attention_output"])
                    normed = functional.rms_norm(hidden, (model.hidden_size,), norm)
                    gate, up = functional.linear(normed, layer["gate_up"]).chunk(2, dim=-1)
                    hidden = hidden + functional.linear(functional.silu(gate) * up, layer["down"])
                return hidden

            yield {
                "layers": clock.sweep.layers, "batch_size": batch, "context": context,
                "latency": clock.ms(_graphed(clock, forward)),
            }  # fmt: skip


def _graphed(clock: Clock, forward: Callable[[], Any]) -> Callable[[], Any]:
    """`forward` captured in a CUDA graph, as engines run it; on a CPU `forward` itself."""
    if clock.device != "cuda":
        return forward
    torch = clock.torch
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


def allreduces(clock: Clock) -> list[Row]:
    """All-reduces by NCCL over 2, 4 and 8 of this machine's GPUs; none with one GPU."""
    if clock.device != "cuda":
        return []
    torch = clock.torch
    rows: list[Row] = []
    multiprocessing = importlib.import_module("torch.multiprocessing")
    for gpus in (2, 4, 8):
        if gpus > torch.cuda.device_count() or clock.over:
            break
        queue = multiprocessing.get_context("spawn").SimpleQueue()
        multiprocessing.spawn(_reduce_rank, (gpus, clock.sweep, queue), nprocs=gpus)
        rows += [{"num_gpus": gpus, "message_size": size // 2, "latency": ms} for size, ms in queue.get()]  # elements
    return rows


def _reduce_rank(rank: int, gpus: int, sweep: Sweep, queue: Any) -> None:
    torch = load_torch()
    distributed = importlib.import_module("torch.distributed")
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=rank, world_size=gpus)
    clock = Clock("cuda", sweep)
    latencies: list[tuple[int, float]] = []
    for size in sweep.messages:
        message = torch.ones(max(1, size // 2), dtype=clock.dtype, device="cuda")
        latencies.append((size, clock.ms(lambda message=message: distributed.all_reduce(message))))
    if rank == 0:
        queue.put(latencies)
    distributed.destroy_process_group()
