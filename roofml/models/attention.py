"""Attention kinds: how a layer looks at other tokens, and what it keeps of them in the KV cache.

Each kind lists its weight matrices (`projections`) and counts its other parameters (`small_parameters`: norms, sinks);
`operation` is its work at run time on one rank. Sizes are in elements. The formulas for parameters follow
the model classes of `transformers`, those for the share of a rank follow vLLM's.
"""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.operations import AttentionOp
from roofml.models.weights import KV_DTYPE_BYTES, Projection

HEADS, KV_HEADS = "num_attention_heads", "num_key_value_heads"


@dataclass(frozen=True)
class Attention:
    """Softmax attention with grouped queries (MHA: kv_heads = heads; MQA: kv_heads = 1)."""

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    """The query, key and value projections have a bias."""
    qk_norm: bool = False
    """An RMS norm of head_dim weights for queries and one for keys."""
    value_dim: int = 0
    """Size of a value head where it differs from head_dim; 0 = head_dim."""
    window: int = 0
    chunk: int = 0
    wide_qk_norm: bool = False
    """The query and key norms have a weight for each element of every head."""
    output_bias: bool = False
    output_gate: int = 0
    """Elements per head of a gate on the output, computed from the hidden state by a matrix of its own."""
    query_gate: bool = False
    """The query projection also computes a gate on the output, which doubles its rows."""
    sinks: bool = False
    """One learned logit a head takes part in the softmax."""
    keys_are_values: bool = False
    """No value projection: the values are the keys before norm and rotation. Both are cached."""

    @property
    def v_dim(self) -> int:
        """Size of one value head."""
        return self.value_dim or self.head_dim

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Query, key and value (one fused product), output, and the gate where it has its own matrix."""
        query_rows = (2 if self.query_gate else 1) * self.heads * self.head_dim
        query = Projection("self_attn.q_proj", "qkv", query_rows, hidden, units=self.heads, field=HEADS, bias=self.bias)
        output_columns = self.heads * self.v_dim
        output = Projection(
            "self_attn.o_proj",
            "attention_output",
            hidden,
            output_columns,
            "rows",
            self.heads,
            HEADS,
            bias=self.output_bias,
        )
        sizes = {"k": self.head_dim} if self.keys_are_values else {"k": self.head_dim, "v": self.v_dim}
        keys_values = tuple(
            Projection(
                f"self_attn.{letter}_proj",
                "qkv",
                self.kv_heads * size,
                hidden,
                units=self.kv_heads,
                field=KV_HEADS,
                replicate=True,
                bias=self.bias,
            )
            for letter, size in sizes.items()
        )
        if not self.output_gate:
            return (query, *keys_values, output)
        gate = Projection(
            "self_attn.g_proj", "attention_gate", self.heads * self.output_gate, hidden, units=self.heads, field=HEADS
        )
        return (query, *keys_values, gate, output)

    def small_parameters(self) -> int:
        """Query and key norms, sinks."""
        norms = 2 * self.head_dim if self.qk_norm else 0
        if self.wide_qk_norm:
            norms = (self.heads + self.kv_heads) * self.head_dim
        return norms + (self.heads if self.sinks else 0)

    def operation(self, count: int, tp: int, dtype: str, kv_dtype: str) -> AttentionOp:
        """2·heads·(head_dim + v_dim) FLOP a pair; kv_heads·(head_dim + v_dim) cached elements a token."""
        heads, kv_heads = self.heads // tp, max(1, self.kv_heads // tp)
        pair = 2 * heads * (self.head_dim + self.v_dim)
        return AttentionOp(
            name="attention",
            count=count,
            heads=heads,
            kv_heads=kv_heads,
            qk_dim=self.head_dim,
            value_dim=self.v_dim,
            prefill_flops_per_pair=pair,
            decode_flops_per_pair=pair,
            kv_bytes=kv_heads * (self.head_dim + self.v_dim) * KV_DTYPE_BYTES[kv_dtype],
            flops_dtype=dtype,
            window=self.window,
            chunk=self.chunk,
        )


@dataclass(frozen=True)
class SparseIndexer:
    """DeepSeek's lightning indexer: a small FP8 attention that chooses the `top_k` entries worth reading."""

    heads: int
    head_dim: int
    top_k: int

    @property
    def flops_per_pair(self) -> int:
        """2·heads·head_dim FLOP for the score of one query token and one entry; not cut by tensor parallelism."""
        return 2 * self.heads * self.head_dim

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry's key: head_dim FP8 elements and one FP32 scale for each 128 of them."""
        return self.head_dim + 4 * -(-self.head_dim // 128)


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek V2/V3): one compressed vector a token stands for all keys and values.

    The cache of every rank holds kv_rank + rope_dim elements a token. Decoding works on them directly (the key and
    value up-projections are absorbed in the query and the output), prefill expands them to heads.
    """

    heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    query_rank: int = 0
    """Rank of the query's down-projection; 0 = queries have a single projection."""
    bias: bool = False
    """The down-projections and the output have a bias."""
    output_gate: int = 0
    indexer: SparseIndexer | None = None

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Down-projections (fused, on every rank), up-projections cut by heads, output, and the indexer's.

        The up-projection of keys and values counts once for every new token, whether expanded (prefill) or absorbed
        (decode): both cost 2·heads·(nope_dim + value_dim)·kv_rank FLOP. Prefill on a context expands that context
        again; this is not counted.
        """
        heads, rank, down, bias = self.heads, self.query_rank, "latent_down", self.bias
        query_rows = heads * (self.nope_dim + self.rope_dim)
        kv_rows = heads * (self.nope_dim + self.value_dim)
        latent = self.kv_rank + self.rope_dim
        parts: list[Projection] = []
        if rank:
            parts.append(Projection("self_attn.q_a_proj", down, rank, hidden, "replicated", bias=bias))
            parts.append(Projection("self_attn.q_b_proj", "query_up", query_rows, rank, units=heads, field=HEADS))
        else:
            parts.append(Projection("self_attn.q_proj", "query_up", query_rows, hidden, units=heads, field=HEADS))
        parts.append(Projection("self_attn.kv_a_proj_with_mqa", down, latent, hidden, "replicated", bias=bias))
        parts.append(Projection("self_attn.kv_b_proj", "latent_up", kv_rows, self.kv_rank, units=heads, field=HEADS))
        if self.output_gate:
            gate_rows = heads * self.output_gate
            parts.append(Projection("self_attn.g_proj", "attention_gate", gate_rows, hidden, units=heads, field=HEADS))
        parts.append(
            Projection(
                "self_attn.o_proj", "attention_output", hidden, heads * self.value_dim, "rows", heads, HEADS, bias=bias
            )
        )
        if self.indexer:
            n, size = self.indexer.heads, self.indexer.head_dim
            parts.append(Projection("self_attn.indexer.wq_b", "index_query", n * size, rank, "replicated"))
            parts.append(Projection("self_attn.indexer.wk", "index_key", size, hidden, "replicated"))
            parts.append(
                Projection(
                    "self_attn.indexer.weights_proj", "index_weights", n, hidden, "replicated", quantizable=False
                )
            )
        return tuple(parts)

    def small_parameters(self) -> int:
        """RMS norms of the two latent vectors; LayerNorm (weight and bias) of the indexer's key."""
        return self.query_rank + self.kv_rank + (2 * self.indexer.head_dim if self.indexer else 0)

    def operation(self, count: int, tp: int, dtype: str, kv_dtype: str) -> AttentionOp:
        """Prefill: 2·heads·(nope + rope + value) FLOP a pair; decode: 2·heads·(2·kv_rank + rope)."""
        heads = self.heads // tp
        return AttentionOp(
            name="latent_attention",
            count=count,
            heads=heads,
            kv_heads=1,
            qk_dim=self.nope_dim + self.rope_dim,
            value_dim=self.value_dim,
            prefill_flops_per_pair=2 * heads * (self.nope_dim + self.rope_dim + self.value_dim),
            decode_flops_per_pair=2 * heads * (2 * self.kv_rank + self.rope_dim),
            kv_bytes=(self.kv_rank + self.rope_dim) * KV_DTYPE_BYTES[kv_dtype],
            flops_dtype=dtype,
            top_k=self.indexer.top_k if self.indexer else 0,
            index_flops_per_pair=self.indexer.flops_per_pair if self.indexer else 0,
            index_bytes=self.indexer.entry_bytes if self.indexer else 0,
        )


@dataclass(frozen=True)
class CompressedAttention:
    """DeepSeek V4's attention: one shared KV head, a short window, and beyond it entries that merge `ratio` tokens.

    With ratio 0 there is only the window. With an indexer (ratio 4) a query reads the merged entries that the indexer
    chooses, without one (ratio 128) all of them. The output projection is block-diagonal: it maps each of
    `output_groups` groups of heads to `output_rank` elements.
    """

    heads: int
    head_dim: int
    query_rank: int
    output_groups: int
    output_rank: int
    window: int
    ratio: int = 0
    indexer: SparseIndexer | None = None

    @property
    def _merge_width(self) -> int:
        """Overlapping windows of merged tokens need two sets of keys; only the indexed kind overlaps."""
        return 2 if self.indexer else 1

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Matrices of the query (down, up), shared key-value, grouped output, the compressor and the indexer."""
        heads, size, rank, whole = self.heads, self.head_dim, self.query_rank, "replicated"
        groups, low = self.output_groups, self.output_groups * self.output_rank
        parts = [
            Projection("self_attn.q_a_proj", "latent_down", rank, hidden, whole),
            Projection("self_attn.kv_proj", "latent_down", size, hidden, whole),
            Projection("self_attn.q_b_proj", "query_up", heads * size, rank, units=heads, field=HEADS),
            Projection(
                "self_attn.o_a_proj", "output_down", low, heads * size // groups, units=groups, field="o_groups"
            ),
            Projection("self_attn.o_b_proj", "attention_output", hidden, low, "rows", groups, "o_groups"),
        ]
        if self.ratio:
            wide = self._merge_width * size
            parts.append(Projection("self_attn.compressor.kv_proj", "compress", wide, hidden, whole))
            parts.append(Projection("self_attn.compressor.gate_proj", "compress", wide, hidden, whole))
        if self.indexer:
            n, small = self.indexer.heads, self.indexer.head_dim
            index = "self_attn.compressor.indexer"
            parts.append(Projection(f"{index}.kv_proj", "index_key", 2 * small, hidden, whole))
            parts.append(Projection(f"{index}.gate_proj", "index_key", 2 * small, hidden, whole))
            parts.append(Projection(f"{index}.q_b_proj", "index_query", n * small, rank, whole))
            scorer = f"{index}.scorer.weights_proj"
            parts.append(Projection(scorer, "index_weights", n, hidden, whole, quantizable=False))
        return tuple(parts)

    def small_parameters(self) -> int:
        """Norms of query and key-value, sinks; the compressor's and indexer's position biases and norms."""
        total = self.query_rank + self.head_dim + self.heads
        if self.ratio:
            total += self._merge_width * self.ratio * self.head_dim + self.head_dim
        if self.indexer:
            total += 2 * self.ratio * self.indexer.head_dim + self.indexer.head_dim
        return total

    def operation(self, count: int, tp: int, dtype: str, kv_dtype: str) -> AttentionOp:
        """4·heads·head_dim FLOP a pair; an entry is one key-value vector of head_dim elements, on every rank."""
        heads = self.heads // tp
        pair = 4 * heads * self.head_dim
        return AttentionOp(
            name="compressed_attention",
            count=count,
            heads=heads,
            kv_heads=1,
            qk_dim=self.head_dim,
            value_dim=self.head_dim,
            prefill_flops_per_pair=pair,
            decode_flops_per_pair=pair,
            kv_bytes=self.head_dim * KV_DTYPE_BYTES[kv_dtype],
            flops_dtype=dtype,
            window=self.window,
            compression=self.ratio or 1,
            top_k=self.indexer.top_k if self.indexer else 0,
            index_flops_per_pair=self.indexer.flops_per_pair if self.indexer else 0,
            index_bytes=self.indexer.entry_bytes if self.indexer else 0,
        )
