"""How far kernels are off that the tables do not hold: every second shape is left out of the import and predicted.

    python benchmarks/kernel_interpolation.py --gpu H100 --package aisimulate-*.whl

For each kind of kernel and format: how many shapes were left out, and the median and 90th percentile of the absolute
error of their times at the sizes of the table. The shapes at the ends stay in: beyond them nothing is interpolated.
Needs the extra `bench` and a wheel of aiconfigurator-core or aisimulate (`pip download --no-deps`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.kernels import Efficiency
from roofml.hardware.read_kernels import read_efficiency, read_rows
from roofml.hardware.stand_ins import mixture, product
from roofml.microbench.derive import derive
from roofml.microbench.importer import import_package
from roofml.microbench.packages import packages

MOST = 10.0
"""Median error, %, that no kind should exceed."""
SIDES = {
    "gemm": ("gemm", ["n", "k"]),
    "moe": ("moe", ["num_experts", "topk", "hidden_size", "width"]),
    "prefill_attention": ("context_attention", ["num_heads", "num_key_value_heads", "head_dim"]),
    "decode_attention": ("generation_attention", ["num_heads", "num_key_value_heads", "head_dim"]),
}
"""Table -> its kernel, and the columns that make a shape."""


def halves(table: Any, name: str) -> Any:
    """Which rows are of a shape that is left out.

    Of products those of every second k, so that both sides of each were measured; of mixtures every second width of
    the same experts; of attention every second shape in the order of sizes. What is at an end stays.
    """
    if name == "gemm":
        inside = sorted(table.k.unique())[1:-1:2]
        return table.k.isin(inside).to_numpy()
    sides = SIDES[name][1]
    table = table.assign(width=table.inter_size // table.moe_tp_size) if name == "moe" else table
    shapes = table[sides].drop_duplicates().sort_values(sides)
    if name == "moe":
        of_experts = shapes.groupby(sides[:-1])
        place, count = of_experts.cumcount(), of_experts.width.transform("size")
        out = shapes[(place % 2 == 1) & (place < count - 1)]
    else:
        out = shapes.iloc[1:-1:2]
    return table.merge(out.assign(held=True), on=sides, how="left").held.eq(True).to_numpy()


def errors(name: str, gpu: Gpu, rest: Efficiency, held: Path) -> Iterator[tuple[str, list[float]]]:
    """Format, and the errors of each of its shapes in the table of those left out, relative."""
    if name == "gemm":
        rows = read_rows(held, ("n", "k"), "dtype")
        for dtype, (n, k), values in zip(rows.dtype, rows.sizes, rows.values, strict=True):
            slowdown, _ = product(rest, gpu, dtype, float(n), float(k))
            yield dtype, list(slowdown * values - 1)
    elif name == "moe":
        rows = read_rows(held, ("experts", "top_k", "hidden", "inter"), "dtype")
        for dtype, sizes, values in zip(rows.dtype, rows.sizes, rows.values, strict=True):
            experts, top_k, hidden, inter = map(int, sizes)
            slowdown, _ = mixture(rest, gpu, dtype, experts, top_k, hidden, inter)
            yield dtype, list(slowdown * values - 1)
    elif name == "prefill_attention":
        rows = read_rows(held, ("heads", "kv_heads", "head_dim"), "dtype")
        for dtype, sizes, values in zip(rows.dtype, rows.sizes, rows.values, strict=True):
            own = float(np.median(values[np.isfinite(values)][-4:]))
            yield dtype, [own / rest.prefill_attention(dtype, *map(int, sizes))[0] - 1]
    else:
        rows = read_rows(held, ("heads", "kv_heads", "head_dim"), "kv_dtype", ("fixed_us", "item_us", "mbu", "sd"))
        for dtype, sizes, (fixed, item, mbu, _) in zip(rows.dtype, rows.sizes, rows.values, strict=True):
            found = rest.decode_attention(dtype, *map(int, sizes))
            read = np.array([10.0, 100.0, 1000.0])  # µs of ideal time
            items = np.array([0.0, 100.0, 1000.0])
            theirs = found.fixed_us + found.item_us * items + read / found.mbu
            yield dtype, list(theirs / (fixed + item * items + read / mbu) - 1)


def judged(gpu: Gpu, measured: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row for every kind and format."""
    parts: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for name, (kernel, _) in SIDES.items():
        held = halves(measured[kernel], name)
        parts[False][kernel], parts[True][kernel] = measured[kernel][~held], measured[kernel][held]
    for held, tables in parts.items():
        (folder / str(held)).mkdir()
        for name, text in derive(tables, gpu, {}).items():
            (folder / str(held) / name).write_text(text, encoding="utf-8")
    rest = read_efficiency(folder / "False", gpu)
    rows: list[dict[str, Any]] = []
    for name in SIDES:
        of_format: dict[str, list[float]] = {}
        shapes: dict[str, int] = {}
        for dtype, values in errors(name, gpu, rest, folder / "True" / f"{name}.csv"):
            of_format.setdefault(dtype, []).extend(values)
            shapes[dtype] = shapes.get(dtype, 0) + 1
        for dtype, values in of_format.items():
            size = 100 * np.abs(values)
            median, worst = float(np.median(size)), float(np.percentile(size, 90))
            rows.append(
                {"kind": name, "format": dtype, "shapes": shapes[dtype], "median_pct": median, "p90_pct": worst}
            )
    return rows


def main() -> None:
    """Print a table, or with --json a list of its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--package", type=Path, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    gpu = load_gpu(given.gpu)
    measured, _ = import_package(gpu, None, packages(given.package))
    with tempfile.TemporaryDirectory() as folder:
        rows = judged(gpu, measured, Path(folder))
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{gpu.name}: shapes left out of the import, predicted from the others")
    for row in rows:
        mark = "" if row["median_pct"] <= MOST else f"  > {MOST:g} %"
        print(
            f"  {row['kind']:18} {row['format']:12} {row['shapes']:5} shapes   median {row['median_pct']:5.1f} %"
            f"   90 % below {row['p90_pct']:5.1f} %{mark}"
        )


if __name__ == "__main__":
    main()
