"""What one rank does in a step: matrix products (`Gemm`) and attention or state updates (`AttentionOp`, `StateOp`).

The roofline needs no more than these lists from a model. Sizes are those of one GPU of the tensor-parallel group;
`count` is the number of layers that do the same work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roofml.models.reach import Reach, entries, keys, pairs_up_to


@dataclass(frozen=True)
class Gemm:
    """One matrix product, (rows x k) times (k x n), in `count` layers.

    A row is a new token of the step or, for the LM head, a sampled token. With `experts` > 0 there are `experts`
    weight matrices and every token goes through `experts_per_token` of them: on average M tokens touch
    experts·(1 - (1 - experts_per_token/experts)^M) matrices, and they compute M·experts_per_token rows.
    """

    name: str
    """qkv, attention_output, gate_up, down, router, expert_gate_up, lm_head, ...; every model uses the same names."""
    n: int
    k: int
    count: int
    rows: Literal["tokens", "sampled"]
    weight_bytes: int
    """Bytes of one n x k matrix (of one expert) with its scales."""
    flops_dtype: str
    """The type the product is computed in: key of `Gpu.flops_per_us`."""
    experts: int = 0
    experts_per_token: int = 0
    ranks: int = 1
    """Ranks that whole experts are dealt to (expert parallelism): this one holds experts/ranks of them, and a token of
    the group visits experts_per_token/ranks of those on average. 1: this rank has a slice of every expert, or all."""
    kernel: str = "bfloat16"
    """The kind of kernel that multiplies: `WeightFormat.kernel`."""

    @property
    def flops_per_row(self) -> float:
        """2·n·k FLOP for a row, times the experts of this rank that it visits on average; one layer."""
        whole = 2 * self.n * self.k * max(1, self.experts_per_token)
        return whole if self.ranks == 1 else whole / self.ranks

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights of this product take in memory: all layers, all experts of this rank."""
        return self.count * self.weight_bytes * max(1, self.experts // self.ranks)


@dataclass(frozen=True)
class AttentionOp:
    """Softmax attention in `count` layers: the work of a query token, of a cache entry and of a pair of the two.

    An entry is what the cache keeps of one token (of `compression` merged tokens beyond the window). `keys(position)`
    is the number of entries that a query with `position` tokens before it reads.
    """

    name: str
    """attention, latent_attention or compressed_attention."""
    count: int
    heads: int
    """Query heads on this rank."""
    kv_heads: int
    """KV heads on this rank; 1 where all query heads share one latent vector."""
    qk_dim: int
    value_dim: int
    prefill_flops_per_pair: int
    """FLOP of one query token against one entry, all heads: 2·heads·(qk_dim + value_dim)."""
    decode_flops_per_pair: int
    """FLOP of such a pair in decoding, which for latent attention works on the compressed entry; else as in prefill."""
    kv_bytes: int
    """Bytes of one entry: written for every new token, read by every query that sees it."""
    flops_dtype: str
    window: int = 0
    """A query sees itself and the window - 1 tokens before it; 0 = all."""
    chunk: int = 0
    """A query sees the positions since the last multiple of `chunk`; 0 = all."""
    compression: int = 1
    """Tokens merged into one entry; if more than 1, the cache also keeps the last `window` tokens unmerged."""
    top_k: int = 0
    """Most entries that a query reads, chosen by an indexer (among merged entries if there are any); 0 = all."""
    index_flops_per_pair: int = 0
    """FLOP of the indexer's score of a query token and an entry; every entry in reach is scored."""
    index_bytes: int = 0
    """Bytes of the indexer's key of one entry."""

    @property
    def reach(self) -> Reach:
        """What limits the entries that a query reads."""
        return Reach(self.window, self.chunk, self.compression, self.top_k)

    def keys(self, position: int) -> int:
        """Cache entries that a query with `position` tokens before it reads, itself included."""
        return keys(position, *self.reach)

    def pairs(self, context: int, new: int) -> int:
        """Query-entry pairs of `new` tokens after `context`: Σ keys(p) for p = context .. context + new - 1."""
        return pairs_up_to(context + new, *self.reach) - pairs_up_to(context, *self.reach)

    def entries(self, context: int, new: int) -> int:
        """Cache entries that `new` tokens after a context of `context` read at least once, their own included."""
        return entries(context, new, *self.reach)


@dataclass(frozen=True)
class StateOp:
    """Linear attention or a state-space layer: every token updates a state of constant size, in `count` layers."""

    name: str
    """linear_attention or mamba."""
    count: int
    heads: int
    """Value heads on this rank."""
    flops_per_token: int
    """FLOP of one token's update and read-out in one layer, without projections."""
    state_bytes: int
    """Bytes of one request's recurrent and convolution state in one layer. Each of its steps reads and writes them."""
    flops_dtype: str
    scan: str = "gdn"
    """The kernels that update it: gdn (gated delta rule), kda (Kimi delta attention) or mamba2."""
    state_elements: int = 0
    """Elements of one request's recurrent state in one layer."""


MixerOp = AttentionOp | StateOp
