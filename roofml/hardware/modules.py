"""Modules: measured parts of a layer that only some architectures have, from `bench_data/<gpu>/modules/*.csv`.

Recurrent scans, attention blocks that read part of their context, hyper-connections. A GPU without a table gets the one
of the GPU most like it: a launch takes as long, everything else by the ratio of bandwidths or rates, with a variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import SD_OF_OTHER_DTYPE, Rows
from roofml.util.arrays import Floats

SD_OF_ANOTHER_GPU = 0.3
"""Relative sd added in quadrature if another GPU's table stands in: that of ordinary kernels across generations."""


class Block(NamedTuple):
    """A kind of attention on one number of heads: fixed_us + item_us a request (decoding) or token (prompts) + ideal
    time of what it reads or computes / `share` + ideal time of what its indexer does / `index_share`."""

    fixed_us: float
    item_us: float
    share: float
    index_share: float
    sd: float


class Scan(NamedTuple):
    """A recurrent layer: decoding as a `Block` of states; a prompt takes fixed µs and so many µs a token."""

    decode_us: float
    mbu: float
    prompt_us: float
    token_us: float
    sd: float


@dataclass(frozen=True, eq=False)
class Modules:
    """The tables of one GPU, and of others where it has none."""

    own: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    others: Mapping[str, tuple[Rows, Gpu]] = field(default_factory=dict[str, tuple[Rows, Gpu]])
    """Of the GPU most like it."""
    gpu: Gpu | None = None

    def _rows(self, name: str) -> tuple[Rows, float, float, float] | None:
        """The table, its sd besides that of shapes, and by how much more time bytes and FLOP take here than there."""
        if name in self.own:
            return self.own[name], 0.0, 1.0, 1.0
        if name not in self.others or self.gpu is None:
            return None
        rows, there = self.others[name]
        slower_memory = there.bandwidth_bytes_per_us / self.gpu.bandwidth_bytes_per_us
        slower_compute = there.flops_rate("bfloat16") / self.gpu.flops_rate("bfloat16")
        return rows, SD_OF_ANOTHER_GPU, slower_memory, slower_compute

    def block(self, kind: str, prompts: bool, kv_dtype: str, heads: int) -> Block | None:
        """A kind of attention (mla, dsa, csa, hca), of the number of heads nearest; None where nobody measured it."""
        found = self._rows(f"{kind}_{'prefill' if prompts else 'decode'}")
        if found is None:
            return None
        rows, sd, memory, compute = found
        if kv_dtype not in rows.dtype:  # of one type of cache alone: the shares are as good a guess for the other
            kv_dtype, sd = rows.dtype[0], math.hypot(sd, SD_OF_OTHER_DTYPE)
        (fixed, item, share, index, spread), reach = rows.nearest(kv_dtype, (heads,))
        scale = compute if prompts else memory
        return Block(float(fixed), float(item * scale), float(share), float(index), math.hypot(sd, reach, spread))

    def scan(self, kind: str, heads: float) -> Scan | None:
        """A recurrent layer (gdn, kda) of so many heads of a 128 x 128 state; None where nobody measured it."""
        found = self._rows(kind)
        if found is None:
            return None
        rows, sd, memory, compute = found
        phase = np.array(rows.dtype)
        decodes = Rows(rows.path, rows.about, tuple(phase[phase == "decode"]), rows.sizes[phase == "decode"],
                       rows.values[phase == "decode"])  # fmt: skip
        (fixed, mbu, *_), reach = decodes.nearest("decode", (heads,))
        prompt_us, _, stream, head, norm, conv, spread = rows.values[phase == "prefill"][0]
        token = (stream**norm + (head * heads * compute) ** norm) ** (1 / norm) + conv * heads * memory
        return Scan(float(fixed), float(mbu), float(prompt_us), float(token), math.hypot(sd, reach, spread))

    def mixing_us(self, hidden: int, tokens: Floats) -> Floats | None:
        """Time of a layer's hyper-connections on M tokens, shape (M,) -> (M,), µs; None where nobody measured it.

        In proportion to the hidden size beside the measured ones, and to the tokens beyond the most measured.
        """
        found = self._rows("mhc")
        if found is None:
            return None
        rows, _, memory, _ = found
        sizes = np.unique(rows.sizes[:, 0])
        near = sizes[np.argmin(np.abs(np.log(sizes / hidden)))]
        chosen = rows.sizes[:, 0] == near
        measured, times = rows.sizes[chosen, 1], rows.values[chosen, 0]
        beyond = np.maximum(1.0, tokens / measured[-1])
        time: Floats = np.asarray(np.interp(tokens, measured, times), np.float64)
        return time * beyond * (memory * hidden / float(near))
