"""Kernels of one GPU: how measured ones compare with the roofline, as a function of shape (`kernel_tables`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from roofml.hardware.kernel_drift import ShapeRatios
from roofml.hardware.kernel_tables import SD_OF_OTHER_DTYPE, DecodeAttention, GemmTable, Rows
from roofml.hardware.modules import Modules
from roofml.util.arrays import Floats
from roofml.util.errors import InputError

SD_OF_WINDOW = 0.5
"""Relative sd of a kernel with a window where none was measured: an H100 reaches 0.09 to 0.5 of its peak in windows of
128 to 8,192 tokens."""


@dataclass(frozen=True, eq=False)
class Efficiency:
    """Measured kernels of one GPU."""

    gemm: GemmTable
    moe: Rows | None
    """Sizes: experts, top_k, hidden, inter. Values: ideal over measured time at each M of `moe_tokens`."""
    moe_tokens: Floats
    prefill_attention_rows: Rows
    """Sizes: heads, kv_heads, head_dim. Values: MFU by length of the prompt."""
    decode_attention_rows: Rows
    """Sizes: heads, kv_heads, head_dim. Values: fixed_us, item_us, mbu, sd."""
    latent_prefill_rows: Rows | None
    latent_decode_rows: Rows | None
    allreduce_bytes: Floats
    """(sizes,) message sizes at which all-reduces were measured, bytes, ascending."""
    allreduce_us: dict[int, Floats]
    """GPUs -> (sizes,) measured time, µs."""
    source: str
    prefill_window_rows: Rows | None = None
    """Sizes: heads, kv_heads, head_dim, window. Values: MFU by length of the prompt, over the pairs in the window."""
    decode_window_rows: Rows | None = None
    """Sizes: heads, kv_heads, head_dim, window. Values: fixed_us, item_us, mbu, sd, over the tokens in the window."""
    ranks_rows: Rows | None = None
    """Sizes: experts, top_k, hidden, inter, ranks. Values: time of the busiest rank over that of one, by tokens."""
    ranks_tokens: Floats = field(default_factory=lambda: np.zeros(0))
    """M of the values of `ranks_rows`, of the whole group."""
    drift_rows: Rows | None = None
    """Sizes: release, size. Values: ratio, sd (`kernel_drift`)."""
    moe_drift: ShapeRatios | None = None
    """By experts, top_k, hidden, inter."""
    gemm_drift: ShapeRatios | None = None
    """By n, k."""
    decode_drift_rows: Rows | None = None
    """Sizes: release, heads, kv_heads, head_dim. Values: fixed_us, item_us, mbu, sd at that release."""
    releases: Mapping[str, int] = field(default_factory=dict[str, int])
    """Table -> the engine's release that it was measured with, as `kernel_drift.release_number` has it."""
    variances: Mapping[str, float] = field(default_factory=dict[str, float])
    """Why these are not the GPU's own measured kernels -> the variance that adds to the logarithm of every time."""
    allreduce_sd: float = 0.0
    """Relative standard deviation of all-reduces that were not measured."""
    modules: Modules = field(default_factory=Modules)
    """Measured parts of a layer that only some architectures have."""

    def mixtures(
        self, dtype: str, experts: int, top_k: int, hidden: float, inter: float
    ) -> tuple[list[tuple[float, Floats, tuple[int, int, float, float]]], float]:
        """The most alike mixtures, and the relative sd of another that is priced by them.

        Of each its weight, ideal over measured time at each M of `moe_tokens`, and its experts, top_k, hidden and
        inter: the next narrower and the next wider one, by the logarithm of their widths, where both are of the same
        experts and hidden size; else the nearest alone. Raises InputError where none was measured.
        """
        if self.moe is None:
            raise InputError(f"{self.source}: no mixture of experts was measured")
        rows = self.moe
        nearest, sd = rows.nearest_row(dtype, (experts, top_k, hidden, inter))
        alike = (np.array(rows.dtype) == rows.dtype[nearest]) & (rows.sizes[:, :3] == [experts, top_k, hidden]).all(1)
        widths = np.where(alike, rows.sizes[:, 3], np.nan)
        weights = {nearest: 1.0}
        if (widths < inter).any() and (widths > inter).any() and inter not in widths:
            narrow = int(np.nanargmax(np.where(widths < inter, widths, np.nan)))
            wide = int(np.nanargmin(np.where(widths > inter, widths, np.nan)))
            share = math.log(inter / widths[narrow]) / math.log(widths[wide] / widths[narrow])
            weights = {narrow: 1 - share, wide: share}
        found: list[tuple[float, Floats, tuple[int, int, float, float]]] = []
        for row, weight in weights.items():
            its, chosen, width, inner = map(float, rows.sizes[row])
            found.append((weight, rows.values[row], (int(its), int(chosen), width, inner)))
        return found, sd

    def expert_ranks(
        self, dtype: str, experts: int, top_k: int, hidden: float, inter: float, ranks: int
    ) -> tuple[Floats, float]:
        """Time of the busiest of `ranks` ranks with a mixture's experts over that of one rank with all, at each M of
        `ranks_tokens`, and its relative sd. Raises InputError where none was measured."""
        if self.ranks_rows is None:
            raise InputError(f"{self.source}: no mixture of experts was measured on several ranks")
        return self.ranks_rows.nearest(dtype, (experts, top_k, hidden, inter, ranks))

    def prefill_attention(
        self, dtype: str, heads: int, kv_heads: int, head_dim: int, window: int = 0
    ) -> tuple[float, float]:
        """MFU of causal prefill attention of long prompts, and its relative sd; `dtype` is that of the cache.

        With a `window` it is of the pairs that the window leaves, s·W - W²/2 of a prompt of s tokens. Where no window
        was measured, the share of the whole context stands in, and is that much less certain.
        """
        if window and self.prefill_window_rows is not None:
            values, sd = self.prefill_window_rows.nearest(dtype, (heads, kv_heads, head_dim, window))
        else:
            values, sd = self.prefill_attention_rows.nearest(dtype, (heads, kv_heads, head_dim))
            sd = math.hypot(sd, SD_OF_WINDOW if window else 0.0)
        return float(np.median(values[np.isfinite(values)][-4:])), sd

    def decode_attention(
        self, kv_dtype: str, heads: int, kv_heads: int, head_dim: int, window: int = 0
    ) -> DecodeAttention:
        """Decode attention of the measured shape nearest in queries a KV head, KV heads, head size and window.

        With a `window` its bytes are those of the last `window` tokens of each request.
        """
        shape = [heads, kv_heads, head_dim]
        rows = self.decode_attention_rows
        if window and self.decode_window_rows is not None:
            rows, shape = self.decode_window_rows, [*shape, window]
        by_group = replace(rows, sizes=_grouped(rows.sizes))
        (fixed, item, mbu, sd), reach = by_group.nearest(kv_dtype, list(_grouped(np.array([shape], np.float64))[0]))
        if window and self.decode_window_rows is None:
            reach = math.hypot(reach, SD_OF_WINDOW)
        return DecodeAttention(fixed, item, mbu, math.hypot(sd, reach))

    def latent_prefill(self, dtype: str, heads: int) -> tuple[float, float]:
        """MFU of prefill attention over a latent cache, or of ordinary attention if none was measured, and its sd."""
        if self.latent_prefill_rows is None:
            mfu, sd = self.prefill_attention(dtype, heads, heads, 128)
            return mfu, math.hypot(sd, SD_OF_OTHER_DTYPE)
        values, sd = self.latent_prefill_rows.nearest(dtype, (heads,))
        return float(np.median(values[np.isfinite(values)])), sd

    def latent_decode(self, kv_dtype: str, heads: int) -> DecodeAttention:
        """Decode attention over a latent cache, where a work item is a request."""
        if self.latent_decode_rows is None:
            ordinary = self.decode_attention(kv_dtype, heads, 1, 128)
            return replace(ordinary, sd=math.hypot(ordinary.sd, SD_OF_OTHER_DTYPE))
        (fixed, item, mbu, sd), reach = self.latent_decode_rows.nearest(kv_dtype, (heads,))
        return DecodeAttention(fixed, item, mbu, math.hypot(sd, reach))

    def allreduce_us_at(self, gpus: int, message_bytes: Floats) -> Floats:
        """Time of one all-reduce, µs: interpolated in bytes, and beyond the largest message at its bandwidth.

        Raises InputError for a number of GPUs that was not measured.
        """
        if gpus not in self.allreduce_us:
            measured = ", ".join(map(str, self.allreduce_us))
            raise InputError(f"tensor parallel size {gpus}: no all-reduce was measured for it (known: 1, {measured})")
        times, sizes = self.allreduce_us[gpus], self.allreduce_bytes
        beyond = np.maximum(message_bytes / sizes[-1], 1.0)
        return np.interp(message_bytes, sizes, times) * beyond


def at_datasheet(measured: Efficiency) -> Efficiency:
    """Kernels that reach the datasheet's rates at every shape and take no time to start.

    All-reduces run at the bandwidth of the largest measured message, whatever their size.
    """

    def at_peak(rows: Rows | None) -> Rows | None:
        return None if rows is None else replace(rows, values=np.ones_like(rows.values))

    def at_bandwidth(rows: Rows | None) -> Rows | None:  # fixed_us, item_us, mbu, sd
        return None if rows is None else replace(rows, values=np.tile([0.0, 0.0, 1.0, 0.1], (len(rows.values), 1)))

    prefill, decode = at_peak(measured.prefill_attention_rows), at_bandwidth(measured.decode_attention_rows)
    assert prefill is not None
    assert decode is not None
    sizes = measured.allreduce_bytes
    return replace(
        measured,
        gemm=replace(measured.gemm, slowdown={d: np.ones_like(s) for d, s in measured.gemm.slowdown.items()}),
        moe=at_peak(measured.moe),
        prefill_attention_rows=prefill,
        decode_attention_rows=decode,
        latent_prefill_rows=at_peak(measured.latent_prefill_rows),
        latent_decode_rows=at_bandwidth(measured.latent_decode_rows),
        prefill_window_rows=at_peak(measured.prefill_window_rows),
        decode_window_rows=at_bandwidth(measured.decode_window_rows),
        allreduce_us={gpus: times[-1] * sizes / sizes[-1] for gpus, times in measured.allreduce_us.items()},
        source="datasheet",
        modules=Modules(),
    )


def _grouped(sizes: Floats) -> Floats:
    """(rows, [heads, kv_heads, ...]) -> (rows, [heads a KV head, kv_heads, ...])."""
    return np.column_stack((sizes[:, 0] / sizes[:, 1], sizes[:, 1:]))
