"""Recurrent layers: gated delta rule and Kimi delta attention -> modules/gdn.csv and kda.csv, by value heads on a GPU.

Every phase is two kernels, the short convolution and the state update, whose times add. A decode reads and writes each
request's state: a straight line in its bytes. A prompt is a scan: a sequence takes so long a token however few heads
there are (`stream_us`), and many heads or sequences share the multiprocessors (`head_us` a token and head); in between
the norm of order `norm` of both. Convolutions are linear in channels and tokens.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from scipy import optimize

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import robust_sd, straight_line
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

STATE = 128 * 128 * 4
"""Bytes of a value head's state: 128 x 128 elements in FP32."""
NORMS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
SHORTEST = 128
"""Tokens of a sequence below which a scan takes as long as that of one chunk."""
HEADER = "phase,heads,fixed_us,mbu,stream_us,head_us,norm,conv_us,sd"


def both_kernels(rows: Any) -> Any:
    """(batch, tokens of a sequence, heads) -> µs of the convolution and of the update, the median over models."""
    kernel = np.where(rows.kernel_source.str.startswith("causal_conv1d"), "conv", "scan")
    shape = ["num_v_heads", "batch_size", "seq_len"]
    table = rows.assign(kernel=kernel, us=1e3 * rows.latency)
    return table.pivot_table(index=shape, columns="kernel", values="us", aggfunc="median").dropna().reset_index()


def decode_line(rows: Any, gpu: Gpu) -> tuple[float, float, float]:
    """(fixed µs, MBU, relative sd) of decode steps of one number of heads.

    States that fit the cache are left out (`straight_line`): in a step, other layers' weights and states pass through.
    """
    states = rows.batch_size.to_numpy(float) * rows.num_v_heads.to_numpy(float) * STATE
    ideal = 2 * states / gpu.bandwidth_bytes_per_us
    times = (rows.scan + rows.conv).to_numpy(float)
    fixed, _, mbu, sd = straight_line(times, np.zeros_like(times), ideal, rows.batch_size.to_numpy() == 1)
    return fixed, min(mbu, 1.0), sd


def scan_us(
    fixed: float, stream: float, head: float, norm: float, batch: Floats, tokens: Floats, heads: Floats
) -> Floats:
    """Time of the scan of `batch` prompts of so many `tokens` each, µs."""
    return fixed + tokens * (stream**norm + (head * heads * batch) ** norm) ** (1 / norm)


def scan_fit(rows: Any) -> tuple[float, float, float, float, float, float]:
    """(fixed, stream, head, norm, conv µs a token and head, relative sd) of prompts; least relative squares."""
    rows = rows[rows.seq_len >= SHORTEST]
    batch, tokens, heads, scan = (
        rows[name].to_numpy(float) for name in ("batch_size", "seq_len", "num_v_heads", "scan")
    )

    def errors(x: Floats, norm: float) -> Floats:
        fixed, stream, head = np.exp(x).tolist()
        return np.log(scan_us(fixed, stream, head, norm, batch, tokens, heads) / scan)

    start = np.log([10.0, 0.05, 0.0005])
    least_squares = cast("Any", optimize).least_squares
    best, least, chosen = start, np.inf, NORMS[0]
    for norm in NORMS:
        fit: Any = least_squares(errors, start, args=(norm,), loss="soft_l1", f_scale=0.05)
        if float(fit.cost) < least:
            best, least, chosen = np.asarray(fit.x, np.float64), float(fit.cost), norm
    fixed, stream, head = np.exp(best).tolist()
    work = batch * tokens * heads
    long = work >= np.quantile(work, 0.5)
    conv = float(np.median(rows.conv.to_numpy(float)[long] / work[long]))
    return fixed, stream, head, chosen, conv, robust_sd(errors(best, chosen))


def recurrent(table: Any, gpu: Gpu) -> Derived:
    """Lines of a modules/*.csv: a row of decodes for every number of heads, and one of prompts for all."""
    decodes = both_kernels(table[table.phase == "generation"])
    prompts = both_kernels(table[table.phase == "context"])
    lines: list[str] = []
    errors: list[float] = []
    for heads, rows in decodes.groupby("num_v_heads"):
        if len(rows) < 4:
            continue
        fixed, mbu, sd = decode_line(rows, gpu)
        lines.append(f"decode,{heads},{fixed:.3g},{mbu:.3g},0,0,1,0,{sd:.2g}")
        errors.append(sd)
    fixed, stream, head, norm, conv, sd = scan_fit(prompts)
    lines.append(f"prefill,1,{fixed:.3g},1,{stream:.3g},{head:.3g},{norm:g},{conv:.3g},{sd:.2g}")
    return Derived([HEADER, *lines], float(np.median([*errors, sd])))


COLUMNS = ("batch_size", "seq_len", "num_v_heads", "latency")
FAMILIES = (
    Family("modules/gdn", "gdn", COLUMNS, recurrent),
    Family("modules/kda", "kda", COLUMNS, recurrent),
)
