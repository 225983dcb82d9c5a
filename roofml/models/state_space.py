"""Recurrent mixers: layers that carry a state of constant size instead of a KV cache.

They have the methods of the attention kinds: `projections`, `small_parameters`, `operation`. Sizes are in elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.operations import StateOp
from roofml.models.weights import DTYPE_BYTES, Projection

STATE_DTYPE_BYTES = {**DTYPE_BYTES, "float32": 4}
"""Bytes of one element of a recurrent state."""

KEY_HEADS, VALUE_HEADS = "linear_num_key_heads", "linear_num_value_heads"


@dataclass(frozen=True)
class LinearAttention:
    """Gated delta-rule linear attention (Qwen3-Next, Qwen3.5; Kimi Delta Attention with `gate_rank`).

    The state of a value head is a key_dim x value_dim matrix; a short causal convolution runs over queries, keys and
    values.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    state_dtype: str
    gate_rank: int = 0
    """Rank of the matrices of decay and output gate, both per element, with q, k and v apart; 0 = fused projections."""
    full_gate: bool = False
    """The output gate has one matrix of full rank (Kimi-K3)."""

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: queries, keys and values of all heads."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Input projections (fused where they share their input), gates and output, cut by heads."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim

        def by_key(module: str, gemm: str, n: int, k: int) -> Projection:
            return Projection(f"linear_attn.{module}", gemm, n, k, units=self.key_heads, field=KEY_HEADS)

        def by_value(module: str, gemm: str, n: int, k: int) -> Projection:
            return Projection(f"linear_attn.{module}", gemm, n, k, units=self.value_heads, field=VALUE_HEADS)

        fused, gates = "state_in", "state_gates"
        out = Projection(
            "linear_attn.out_proj", "state_out", hidden, values, "rows", units=self.value_heads, field=VALUE_HEADS
        )
        if not self.gate_rank:
            return (
                by_key("in_proj_qkv", fused, 2 * keys, hidden),
                by_value("in_proj_qkv", fused, values, hidden),
                by_value("in_proj_z", fused, values, hidden),
                by_value("in_proj_b", gates, self.value_heads, hidden),
                by_value("in_proj_a", gates, self.value_heads, hidden),
                out,
            )
        rank = self.gate_rank
        gate = (
            Projection("linear_attn.g_a_proj", "state_gate_down", rank, hidden, "replicated"),
            by_value("g_b_proj", "state_gate_up", values, rank),
        )
        if self.full_gate:
            gate = (by_value("g_proj", "state_gate", values, hidden),)
        return (
            by_key("q_proj", fused, keys, hidden),
            by_key("k_proj", fused, keys, hidden),
            by_value("v_proj", fused, values, hidden),
            by_value("b_proj", gates, self.value_heads, hidden),
            Projection("linear_attn.f_a_proj", "state_gate_down", rank, hidden, "replicated"),
            by_key("f_b_proj", "state_gate_up", keys, rank),
            *gate,
            out,
        )

    def small_parameters(self) -> int:
        """Convolution without bias, decay (A_log a head, dt_bias a head or element), the gated norm."""
        decay = self.value_heads + (self.key_heads * self.key_dim if self.gate_rank else self.value_heads)
        return self.conv_channels * self.conv_kernel + decay + self.value_dim

    def operation(self, count: int, tp: int, dtype: str, kv_dtype: str) -> StateOp:
        """7·key_dim·value_dim FLOP a value head: decay (1), S·k (2), rank-one update (2), S·q (2)."""
        heads = self.value_heads // tp
        matrix = heads * self.key_dim * self.value_dim
        conv_bytes = self.conv_channels // tp * (self.conv_kernel - 1) * DTYPE_BYTES[dtype]
        state_bytes = matrix * STATE_DTYPE_BYTES[self.state_dtype] + conv_bytes
        scan = "kda" if self.gate_rank else "gdn"
        return StateOp("linear_attention", count, heads, 7 * matrix, state_bytes, dtype, scan, matrix)


@dataclass(frozen=True)
class Mamba:
    """Mamba-2 state-space layer (Nemotron-H): heads x head_dim x state_size states, input matrices shared by groups."""

    heads: int
    head_dim: int
    groups: int
    state_size: int
    conv_kernel: int
    state_dtype: str
    conv_bias: bool = True
    bias: bool = False

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """One input projection (gate, x, time step by heads; B and C by groups), one output projection."""
        inputs, field = "mamba.in_proj", "mamba_num_heads"
        by_head = 2 * self.inner + self.heads
        by_group = 2 * self.groups * self.state_size
        return (
            Projection(inputs, "state_in", by_head, hidden, units=self.heads, field=field, bias=self.bias),
            Projection(
                inputs,
                "state_in",
                by_group,
                hidden,
                units=self.groups,
                field="n_groups",
                replicate=True,
                bias=self.bias,
            ),
            Projection("mamba.out_proj", "state_out", hidden, self.inner, "rows", self.heads, field, bias=self.bias),
        )

    def small_parameters(self) -> int:
        """Convolution over x, B and C; A_log, D and dt_bias a head; the gated norm."""
        channels = self.inner + 2 * self.groups * self.state_size
        return channels * (self.conv_kernel + self.conv_bias) + 3 * self.heads + self.inner

    def operation(self, count: int, tp: int, dtype: str, kv_dtype: str) -> StateOp:
        """5 FLOP a state element: decay (1), input (2), read-out (2)."""
        heads, groups = self.heads // tp, max(1, self.groups // tp)
        elements = heads * self.head_dim * self.state_size
        channels = heads * self.head_dim + 2 * groups * self.state_size
        conv_bytes = channels * (self.conv_kernel - 1) * DTYPE_BYTES[dtype]
        state_bytes = elements * STATE_DTYPE_BYTES[self.state_dtype] + conv_bytes
        return StateOp("mamba", count, heads, 5 * elements, state_bytes, dtype, "mamba2", elements)
