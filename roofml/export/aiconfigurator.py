"""A system folder of AIConfigurator and AISimulate that holds one calibrated deployment.

Their loader takes a folder of systems beside its own (`--systems-paths`): a YAML sheet and tables of kernel times.
Source: PyPI aiconfigurator-core 0.12.0, systems/*.yaml, the columns of its parquet tables (ms), and what
sdk/engine.py asks of them. A step takes, over L layers, with M new tokens in it:

    decodes   L·gemms(M) + logits(batch) + L·generation_attention(batch, context)
    prompts   L·gemms(M) + logits(prompts) + L·context_attention(prompts, tokens of each)
    both      L·gemms(M) + both attentions

The tables are made so that the first two come to our times: what a layer's products take has all that does not depend
on contexts, overheads and all-reduces too, and attention the rest. The sheet's memory bandwidth is put out of the way,
for norms would be added by it once more.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from roofml.export.decode_steps import StepUs, step_us
from roofml.export.exported import Exported, Loss
from roofml.export.subject import Subject
from roofml.models.operations import AttentionOp, Gemm
from roofml.util.arrays import Floats
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.outside_text import for_file_name, for_line, for_shell, for_yaml

TARGET = "AIConfigurator 0.12 / AISimulate system"
MS = 1000.0
MOST_TOKENS = 16_384
"""New tokens of a step that the tables reach to."""
LEAST_MS = 1e-7
NO_TIME_MS = 1e-9
"""Of an all-reduce: its time is in the products."""
CONTEXTS = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
PROMPTS = (1, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384)
PROMPT_BATCHES = (1, 2, 4, 8, 16, 32)
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
MESSAGES = tuple(2**power for power in range(7, 30))
"""Elements of an all-reduce."""
VERSION = "0.15.1"
"""Of vLLM, where nobody says: what the tables are filed under."""
PARTS = 8
"""A power of two: a count of tokens is divided by it and multiplied again."""
JUDGED = 300


@dataclass(frozen=True)
class Layers:
    """The deployment as the tables have it."""

    subject: Subject
    gemms: tuple[Gemm, ...]
    head: Gemm
    attention: AttentionOp
    times: StepUs
    seats: int

    @property
    def count(self) -> int:
        """Layers of the model."""
        return self.attention.count

    def logits_us(self, rows: Floats) -> Floats:
        """What stands for the LM head: reading its weights, and computing so many rows."""
        gpu = self.subject.deployment.gpu
        compute = 2.0 * self.head.n * self.head.k * rows / gpu.flops_rate("bfloat16")
        return self.head.weight_bytes / gpu.bandwidth_bytes_per_us + compute

    def products_us(self, tokens: Floats) -> Floats:
        """Of all layers together, with so many new tokens: of one prompt without its pairs, or of decodes where a batch
        may have so many and they take less. What the other has more is in its attention."""
        few = np.minimum(tokens, self.seats)
        decodes = self.times(few, 1.0) - self.logits_us(few)
        prompt = self.times(0.0, 0.0, np.maximum(tokens, 1.0)) - self.logits_us(np.ones_like(tokens))
        grown = prompt - self.attention_pairs_us(tokens)
        return np.maximum(np.where(tokens <= self.seats, np.minimum(decodes, grown), grown), 1.0)

    def attention_pairs_us(self, tokens: Floats) -> Floats:
        """What a lone prompt's pairs of tokens take, by how much shorter the step of PARTS prompts of its parts is."""
        alone = self.times(0.0, 0.0, np.maximum(tokens, 1.0))
        parts = self.times(0.0, 0.0, np.maximum(tokens, PARTS) / PARTS, 0.0, float(PARTS))
        more = self.logits_us(np.full_like(tokens, PARTS)) - self.logits_us(np.ones_like(tokens))
        pairs = (alone - parts + more) * PARTS / (PARTS - 1)
        return np.where(tokens > PARTS, np.maximum(pairs, 0.0), 0.0)

    def decode_attention_us(self, batch: Floats, context: Floats) -> Floats:
        """Of all layers: what so much context adds to a step of decodes."""
        return self.times(batch, context) - self.products_us(batch) - self.logits_us(batch)

    def prompt_attention_us(self, prompts: Floats, tokens: Floats) -> Floats:
        """Of all layers: what is left of a step of prompts."""
        step = self.times(0.0, 0.0, tokens, 0.0, prompts)
        return step - self.products_us(prompts * tokens) - self.logits_us(prompts)


def layers_of(subject: Subject) -> Layers:
    """The parts of a deployment. Raises NotSupportedError for a model whose layers are not all alike and dense."""
    deployment, model = subject.deployment, subject.deployment.model
    gemms, mixers = model.gemms(deployment.tp), model.mixers(deployment.tp)
    names = [gemm.name for gemm in gemms]
    attention = mixers[0] if len(mixers) == 1 else None
    problem = ""
    if not isinstance(attention, AttentionOp) or attention.name != "attention" or attention.kv_heads < 1:
        problem = "other layers than one kind of attention"
    elif attention.window or attention.chunk or attention.top_k or attention.compression > 1:
        problem = "attention that does not read its whole context"
    elif names != ["qkv", "attention_output", "gate_up", "down", "lm_head"] or len({g.count for g in gemms[:-1]}) > 1:
        problem = f"other products in a layer than dense ones ({', '.join(names)})"
    elif any(gemm.kernel != "bfloat16" for gemm in gemms):
        problem = "quantized weights"
    elif deployment.engine.kv_dtype != deployment.engine.dtype:
        problem = f"a KV cache of {deployment.engine.kv_dtype}"
    if problem:
        raise NotSupportedError(
            f"{model.name}: {problem}: no system folder is written for that, expected a dense model"
        )
    assert isinstance(attention, AttentionOp)
    seats = min(subject.server.max_num_seqs, subject.server.max_num_batched_tokens, MOST_TOKENS)
    return Layers(subject, tuple(gemms[:-1]), gemms[-1], attention, step_us(subject, budget=MOST_TOKENS), seats)


def export_aiconfigurator(subject: Subject, folder: Path) -> Exported:
    """A folder of systems with one in it: sheet, versions, and tables. Raises as `layers_of`.

    Raises InputError where pyarrow (extra `bench`) is missing.
    """
    layers = layers_of(subject)
    deployment = subject.deployment
    name = system_name(subject)
    version = deployment.engine.version or VERSION
    version = version.split(",")[0].strip()
    losses = _losses(layers)
    told = [*subject.provenance, *(loss.sentence for loss in losses)]
    comments = "".join(f"# {for_line(text)}\n" for text in told)
    base = folder / "data" / name
    common = {"framework": "VLLM", "version": version, "device": deployment.gpu.name}
    slots = f"vllm: {{current: {json.dumps(version)}, previous: null}}"
    files: dict[Path, str | bytes] = {
        folder / f"{name}.yaml": comments + _sheet(subject, name),
        folder / "query_versions.yaml": f"{comments}schema_version: 1\ndefaults:\n  {slots}\noverrides: {{}}\n",
    }
    tables = {
        ("gemm", "gemm_perf"): _gemm_rows(layers),
        ("attention", "context_attention_perf"): _context_rows(layers),
        ("attention", "generation_attention_perf"): _generation_rows(layers),
        ("comm", "custom_allreduce_perf"): _allreduce_rows(),
    }
    for (family, table), rows in tables.items():
        files[base / family / "vllm" / version / f"{table}.parquet"] = parquet([{**common, **row} for row in rows])
    for family in dict.fromkeys(family for family, _ in tables):
        own = [table for of, table in tables if of == family]
        meta = "schema_version: 1\nprovenance: roofml\nruntime:\n  framework: vllm\n"
        meta += f"  version: {json.dumps(version)}\ntables:\n"
        meta += "".join(f"  {table}:\n    status: complete\n" for table in own)
        files[base / family / "vllm" / version / "collection_meta.yaml"] = comments + meta
    remarks = [
        f"a system of this one deployment: {deployment.title}; other models find no rows in it, other sizes wrong ones",
        "what a request waits for besides steps has no place in it, and contexts enter by their mean",
        "memory bandwidth in the sheet is no figure of the GPU: norms and activations are in the products",
    ]
    words = ["aiconfigurator", "cli", "estimate", "--systems-paths", f"default,{folder}", "--system", name]
    words += ["--backend", "vllm", "--backend-version", version, "--model-path", deployment.hf_repo]
    words += ["--tp-size", str(deployment.tp), "--batch-size", str(max(1, subject.most_at_once // 2))]
    words += ["--isl", str(round(subject.lengths.input_mean)), "--osl", str(round(subject.lengths.output_mean))]
    return Exported(TARGET, files, losses, subject.provenance, remarks, for_line(for_shell(words)))


def system_name(subject: Subject) -> str:
    """The system's name: a word that a path and a flag take."""
    model = subject.deployment.model.name.rsplit("/", 1)[-1]
    return for_file_name(f"roofml_{model}_{subject.deployment.gpu.name}_tp{subject.deployment.tp}").replace("-", "_")


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as a parquet file. Raises InputError where pyarrow is missing."""
    try:
        arrow: Any = import_module("pyarrow")
        written: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError("tables of kernels need pyarrow: pip install 'roofml[bench]'") from None
    stream = io.BytesIO()
    written.write_table(arrow.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


def _sheet(subject: Subject, name: str) -> str:
    """The sheet. Only what is said of sizes and links is the GPU's: times come from the tables."""
    gpu = subject.deployment.gpu
    peak = round(gpu.flops_rate("bfloat16") * 1e6)
    eight = round(max(gpu.flops_per_us.values()) * 1e6)
    link = round(gpu.interconnect_bytes_per_us * 1e6)
    return f"""data_dir: {for_yaml(f"data/{name}")}
gpu:
  mem_bw: 1.0e+18
  mem_bw_empirical_scaling_factor: 1.0
  mem_empirical_constant_latency: 0.0
  mem_capacity: {gpu.memory_bytes}
  bfloat16_tc_flops: {peak}
  int8_tc_flops: {eight}
  fp8_tc_flops: {eight}
  power: 700
  sm_version: 90
node:
  num_gpus_per_node: 8
  inter_node_bw: {link}
  intra_node_bw: {link}
  pcie_bw: {link}
  p2p_latency: 0.0
misc:
  nccl_mem: {{1: 0, 2: 0, 4: 0, 8: 0}}
  other_mem: 0
  nccl_version: '2.27.3'
"""


def _token_counts(layers: Layers) -> Floats:
    """New tokens of a step that products have a row for: each number of decodes with a CUDA graph, then coarser."""
    graphs = layers.subject.deployment.serving(layers.subject.server).graphs
    edges = {1, layers.seats, min(layers.seats + 1, MOST_TOKENS), *(size for size in graphs if size <= MOST_TOKENS)}
    edges |= {min(size + 1, MOST_TOKENS) for size in edges if size >= 8}  # the next graph is another step
    coarse = np.rint(np.geomspace(256, MOST_TOKENS, 25)).astype(int).tolist()
    return np.array(sorted(edges | set(coarse)), np.float64)


def _gemm_rows(layers: Layers) -> list[dict[str, Any]]:
    tokens = _token_counts(layers)
    whole = sum(gemm.n * gemm.k for gemm in layers.gemms)
    each = layers.products_us(tokens) / layers.count / MS
    columns = {"op_name": "gemm", "kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16"}
    rows = [
        {**columns, "m": int(m), "n": gemm.n, "k": gemm.k, "latency": float(us * gemm.n * gemm.k / whole)}
        for gemm in layers.gemms
        for m, us in zip(tokens, each, strict=True)
    ]
    logits = layers.logits_us(tokens) / MS
    head = layers.head
    return rows + [
        {**columns, "m": int(m), "n": head.n, "k": head.k, "latency": float(us)}
        for m, us in zip(tokens, logits, strict=True)
    ]


def _attention(layers: Layers, name: str) -> dict[str, Any]:
    attention = layers.attention
    return {
        "op_name": name,
        "kernel_source": "default",
        "num_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.qk_dim,
        "beam_width": 1,
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
        "window_size": 0,
    }


def _context_rows(layers: Layers) -> list[dict[str, Any]]:
    pairs = [(b, s) for b in PROMPT_BATCHES for s in PROMPTS if b * s <= MOST_TOKENS]
    prompts, tokens = np.array(pairs, np.float64).T
    each = np.maximum(layers.prompt_attention_us(prompts, tokens) / layers.count / MS, LEAST_MS)
    columns = _attention(layers, "context_attention")
    return [
        {**columns, "batch_size": b, "isl": s, "step": 0, "latency": float(ms)}
        for (b, s), ms in zip(pairs, each, strict=True)
    ]


def _generation_rows(layers: Layers) -> list[dict[str, Any]]:
    batches = sorted({size for size in BATCHES if size < layers.seats} | {layers.seats})
    reach = layers.subject.server.max_model_len
    contexts = sorted({context for context in CONTEXTS if context < reach} | {reach})
    pairs = [(b, c) for b in batches for c in contexts]
    batch, context = np.array(pairs, np.float64).T
    each = np.maximum(layers.decode_attention_us(batch, context) / layers.count / MS, LEAST_MS)
    columns = _attention(layers, "generation_attention")
    return [
        {**columns, "batch_size": b, "isl": 1, "step": c - 1, "latency": float(ms)}
        for (b, c), ms in zip(pairs, each, strict=True)
    ]


def _allreduce_rows() -> list[dict[str, Any]]:
    columns = {"op_name": "all_reduce", "kernel_source": "vLLM_custom_graph", "allreduce_dtype": "bfloat16"}
    return [
        {**columns, "num_gpus": gpus, "message_size": size, "latency": NO_TIME_MS, "backend": "vllm_graph"}
        for gpus in (2, 4, 8)
        for size in MESSAGES
    ]


def _losses(layers: Layers) -> list[Loss]:
    """Of random steps of the form's sums: those of prompts alone, and those of both."""
    random = np.random.default_rng(3)
    server = layers.subject.server
    most = min(server.max_num_batched_tokens, MOST_TOKENS)
    decodes = np.rint(np.exp(random.uniform(0, np.log(min(layers.seats, most - 1)), JUDGED)))
    longest = np.minimum(server.max_model_len, server.num_gpu_blocks * server.block_size / decodes)
    context = np.floor(np.exp(random.uniform(np.log(np.minimum(16.0, longest)), np.log(longest))))
    context = np.maximum(context, 1.0)
    new = np.maximum(1.0, np.rint(np.exp(random.uniform(np.log(16.0), np.log(most - decodes)))))
    one = np.ones(JUDGED)
    prompt = np.maximum(layers.prompt_attention_us(one, new), 0.0)
    alone = layers.products_us(new) + layers.logits_us(one) + prompt
    both = layers.products_us(new + decodes) + layers.logits_us(decodes) + prompt
    both = both + np.maximum(layers.decode_attention_us(decodes, context), 0.0)
    return [
        Loss.of("a step of a prompt", alone, layers.times(0.0, 0.0, new)),
        Loss.of("a step of decodes and a prompt", both, layers.times(decodes, context, new)),
    ]
