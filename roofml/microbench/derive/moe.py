"""Mixtures of experts -> moe.csv: ideal over measured time of the fused kernel; moe_ep.csv: a rank of several."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.formats import FORMATS
from roofml.hardware.gpu import Gpu
from roofml.hardware.ideal import FLOOR_US, with_floor
from roofml.microbench.derive.bounds import MANY_ROWS, LeftOut, possible, unusable
from roofml.microbench.derive.curves import at_sizes, robust_sd
from roofml.microbench.derive.dtypes import FORMATS_MEASURED
from roofml.microbench.derive.family import Derived, Family
from roofml.microbench.derive.known_bad import without_known_bad
from roofml.microbench.derive.routing import experts_hit
from roofml.util.arrays import Floats

MOE_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
RANK_TOKENS = (16, 64, 256, 1024, 4096, 16384)
PREFERRED = ("balanced", "power_law_1.01")
"""Distributions a table is of, the first that was measured. Which of them real routers resemble, public runs of
Mixtral-8x7B say: decode steps of 20 to 128 tokens take 1 to 3 % less than with kernels of experts dealt in turn, 8 to
14 % less than with those of a power law, whose busiest expert gets most tokens. How far the two are apart is part of
the table's sd. How many experts a batch hits is another matter: `hardware/expert_routing.py`."""
SURELY_HIT = 0.7
"""Share of the expected experts that one draw of a power law hits at least."""
SMALLEST_SHARE = 0.05
"""Share of the roofline below which a shape is one that nobody serves."""
UNGATED = {(128, 6, 2688), (512, 22, 1024), (512, 22, 2048)}
"""Experts, top k and hidden size of the mixtures whose experts have two matrices, not three: those of Nemotron 3. (With
three a B200 would read 1.6 times as fast as its memory.)"""
SHAPE = ["num_experts", "topk", "hidden_size", "inter"]
COLUMNS = (
    "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
    "distribution", "latency",
)  # fmt: skip


def moe(table: Any, gpu: Gpu) -> Derived:
    """Lines of moe.csv, and the relative error of a shape predicted from the same experts of another width.

    The ideal time of a row is that of the experts that its own distribution hits; a width is that of one rank.
    """
    left_out = LeftOut()
    table = without_known_bad(table, "moe", left_out)
    table = table[table.moe_ep_size == 1]
    table = table.assign(inter=table.inter_size // table.moe_tp_size)
    chosen = _distribution(table)
    lines: list[str] = []
    errors: list[Floats] = []
    spread: list[Floats] = []
    for source, format in FORMATS_MEASURED.items():
        if not usable(table, source, gpu, left_out):
            continue
        found = efficiencies(table, source, chosen, gpu, left_out)
        others = {} if chosen != PREFERRED[0] else efficiencies(table, source, PREFERRED[1], gpu, LeftOut())
        spread += [np.log(values / others[shape]) for shape, values in found.items() if shape in others]
        previous: tuple[tuple[int, ...], Floats] | None = None
        for shape, efficiency in found.items():
            lines.append(f"{format}," + ",".join(map(str, shape)) + "," + ",".join(f"{v:.3g}" for v in efficiency))
            if previous is not None and previous[0][:3] == shape[:3]:
                errors.append(_error(source, chosen, shape, efficiency, *previous, gpu))
            previous = (shape, efficiency)
    header = "dtype,experts,top_k,hidden,inter," + ",".join(f"m{m}" for m in MOE_TOKENS)
    between = robust_sd(np.array(spread)) / 2 if spread else 0.0
    sd = float(np.hypot(robust_sd(np.array(errors)), between))
    return Derived([header, *lines], sd, {"routing": chosen, **left_out.about()})


def _error(
    source: str, routing: str, shape: tuple[int, ...], found: Floats, other: tuple[int, ...], theirs: Floats, gpu: Gpu
) -> Floats:
    """Logarithm of a measured time over the one that `stand_ins` makes of another shape's, at `MOE_TOKENS`."""
    m = np.array(MOE_TOKENS, float)
    mine, its = (
        np.maximum(*_ideal(source, routing, m, experts, top_k, elements(experts, top_k, hidden, inter), gpu)[:2])
        for experts, top_k, hidden, inter in (shape, other)
    )
    return -np.log(found) - np.log(with_floor(1 / theirs, mine, its, FLOOR_US["moe"]))


def _distribution(table: Any) -> str:
    """The preferred distribution that was measured, or the least skewed one."""
    measured = sorted(map(str, table.distribution.unique()))
    return next((name for name in PREFERRED if name in measured), measured[0] if measured else "balanced")


def efficiencies(
    table: Any, source: str, distribution: str, gpu: Gpu, left_out: LeftOut
) -> dict[tuple[int, ...], Floats]:
    """(experts, top k, hidden, inter) -> ideal over measured time at `MOE_TOKENS`, of rows of one rank without others.

    At most 1: an estimate of the experts hit can exceed what one draw of the collector hit.
    """
    rows = table[(table.moe_dtype == source) & (table.distribution == distribution)]
    found: dict[tuple[int, ...], Floats] = {}
    if rows.empty:
        return found
    times = 1e3 * rows.pivot_table(index=SHAPE, columns="num_tokens", values="latency", aggfunc="min")
    for shape, row in times.iterrows():
        experts, top_k, hidden, inter = map(int, shape)
        m = np.asarray(row.index, np.float64)
        compute, reading, weights = _ideal(
            source, distribution, m, experts, top_k, elements(experts, top_k, hidden, inter), gpu
        )
        sure = 1.0 if distribution == "balanced" else SURELY_HIT
        row.loc[:] = possible(m, np.asarray(row, np.float64), compute, sure * reading, weights, left_out)
        if row.notna().sum() < 2:
            continue
        knots = np.array(MOE_TOKENS, float)
        ideal = np.maximum(
            *_ideal(source, distribution, knots, experts, top_k, elements(experts, top_k, hidden, inter), gpu)[:2]
        )
        efficiency = np.minimum(1.0, ideal / at_sizes(row, MOE_TOKENS))
        if efficiency.max() < SMALLEST_SHARE:
            left_out.count("below a twentieth of the roofline throughout", int(row.notna().sum()))
        else:
            found[experts, top_k, hidden, inter] = efficiency
    return found


def elements(experts: int, top_k: int, hidden: int, inter: int) -> int:
    """Elements of one measured expert: gate, up and down, or up and down alone."""
    return (2 if (experts, top_k, hidden) in UNGATED else 3) * hidden * inter


def _ideal(
    source: str, distribution: str, m: Floats, experts: int, top_k: int, size: int, gpu: Gpu
) -> tuple[Floats, Floats, Floats]:
    """Least times of arithmetic and of reading, µs, and the bytes read, of experts of `size` elements each."""
    kind = FORMATS[FORMATS_MEASURED[source]]
    hit = np.array([experts_hit(distribution, experts, top_k, int(tokens)) for tokens in m])
    weights = kind.weight_bytes * hit * size
    compute = 2 * m * top_k * size / gpu.flops_rate(gpu.computes_in(kind.flops_dtype))
    return compute, weights / gpu.bandwidth_bytes_per_us, weights


def usable(table: Any, source: str, gpu: Gpu, left_out: LeftOut) -> bool:
    """Whether a format was measured, and with a kernel that a server would choose."""
    rows, wide = table[table.moe_dtype == source], table[table.moe_dtype == "bfloat16"]
    kind = FORMATS[FORMATS_MEASURED[source]]
    if rows.empty or kind.flops_dtype not in gpu.flops_per_us:
        return False
    if source == "bfloat16" or wide.empty:
        return True
    key = [*SHAPE, "num_tokens", "distribution"]
    own, other = (part[part.num_tokens >= MANY_ROWS].groupby(key).latency.min() for part in (rows, wide))
    ratios = (own / other).dropna().to_numpy(float)
    reason = unusable(ratios, rows.latency.min(), wide.latency.min(), kind.flops_dtype == "bfloat16")
    left_out.count(f"of {source}: {reason}", len(rows) if reason else 0)
    return not reason


def moe_ep(table: Any, gpu: Gpu) -> Derived:
    """Lines of moe_ep.csv: time of the busiest of `ep` ranks over that of one rank with all experts, at a few M.

    M is of the whole group: every token of it is routed, and the rank computes those that its experts get.
    """
    left_out = LeftOut()
    table = without_known_bad(table, "moe", left_out)
    table = table[(table.moe_tp_size == 1) & (table.distribution == _distribution(table))]
    table = table.assign(inter=table.inter_size)
    lines: list[str] = []
    errors: list[Floats] = []
    for source, format in FORMATS_MEASURED.items():
        if not usable(table[table.moe_ep_size == 1], source, gpu, LeftOut()):
            continue
        times = table[table.moe_dtype == source].pivot_table(
            index=[*SHAPE, "moe_ep_size"], columns="num_tokens", values="latency", aggfunc="min"
        )
        of_ranks: dict[int, list[Floats]] = {}
        for (*shape, ranks), row in times.iterrows():
            alone = (*shape, 1)
            if ranks == 1 or alone not in times.index or row.notna().sum() < 2:
                continue
            ratio = at_sizes(row, RANK_TOKENS) / at_sizes(times.loc[alone], RANK_TOKENS)
            of_ranks.setdefault(int(ranks), []).append(np.log(ratio))
            cells = ",".join(str(int(size)) for size in (*shape, ranks))
            lines.append(f"{format},{cells}," + ",".join(f"{v:.3g}" for v in ratio))
        errors += [logs - np.median(group, axis=0) for group in of_ranks.values() for logs in group]
    header = "dtype,experts,top_k,hidden,inter,ranks," + ",".join(f"m{m}" for m in RANK_TOKENS)
    return Derived([header, *lines], robust_sd(np.array(errors)), left_out.about())


FAMILIES = (Family("moe", "moe", COLUMNS, moe, needed=True), Family("moe_ep", "moe", COLUMNS, moe_ep))
