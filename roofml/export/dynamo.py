"""Profiles for NVIDIA Dynamo: what its planner reads of a profiler's folder, and the table of its mocker.

Source: PyPI ai-dynamo 1.6.1, dynamo/planner/monitoring/perf_metrics.py (the folder; times in ms, throughput in tokens/s
of a GPU), dynamo/planner/core/perf_model (which fits straight lines to it), dynamo/mocker/utils; and its repository's
lib/mocker/src/common/perf_model.rs. The mocker interpolates, linearly and beyond the ends too, prefill time over the
new tokens of all prompts in a step, and decode time over (tokens in the KV cache, mean context of a decode). A step of
both takes their sum.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roofml.export.decode_steps import StepUs, step_us
from roofml.export.exported import Exported, Loss
from roofml.export.subject import Subject
from roofml.util.arrays import Floats, Ints
from roofml.util.outside_text import for_line, for_shell

TARGET = "Dynamo 1.6 mocker and planner"
MS = 1000.0
PREFILL_POINTS, KV_POINTS, CONTEXT_POINTS = 64, 128, 64
SHORTEST = 16
"""Tokens of the shortest context in the tables."""
PLANNER_CONTEXTS = 8
PLANNER_BATCHES = 16
JUDGED = 400
"""Random steps that the tables are judged by."""


@dataclass(frozen=True)
class MockerTable:
    """The mocker's arrays."""

    prefill_isl: Floats
    prefill_ttft_ms: Floats
    decode_active_kv_tokens: Floats
    decode_context_length: Floats
    decode_itl: Floats
    """(tokens in the cache, contexts) ms"""

    def prefill_ms(self, new_tokens: Floats) -> Floats:
        """As the mocker interpolates it, inside of the table."""
        return np.interp(new_tokens, self.prefill_isl, self.prefill_ttft_ms)

    def decode_ms(self, kv_tokens: Floats, context: Floats) -> Floats:
        """As the mocker interpolates it, inside of the table."""
        row, down = _cell(self.decode_active_kv_tokens, kv_tokens)
        column, right = _cell(self.decode_context_length, context)
        table = self.decode_itl
        upper = (1 - right) * table[row, column] + right * table[row, column + 1]
        lower = (1 - right) * table[row + 1, column] + right * table[row + 1, column + 1]
        return (1 - down) * upper + down * lower


def mocker_table(subject: Subject, *, aggregated: bool = True) -> MockerTable:
    """The mocker's table of a subject.

    `aggregated`: prompts are computed beside decodes, and the table has what they add to a step of these; else what
    they take by themselves.
    """
    server, times = subject.server, step_us(subject)
    most = server.max_num_batched_tokens
    beside = min(max(1, subject.most_at_once // 2), most // 2) if aggregated else 0
    new = np.unique(np.rint(np.geomspace(1, most - beside, PREFILL_POINTS)))
    context = round(subject.lengths.input_mean + subject.lengths.output_mean / 2)
    prefill = times(beside, context, new)
    if beside:
        prefill = prefill - times(beside, context)
    capacity = float(server.num_gpu_blocks * server.block_size)
    longest = float(min(server.max_model_len, capacity))
    contexts = np.unique(np.rint(np.geomspace(min(SHORTEST, longest / 2), longest, CONTEXT_POINTS)))
    cached = np.unique(np.rint(np.concatenate(([1.0], np.geomspace(SHORTEST, capacity, KV_POINTS)))))
    grid = np.meshgrid(cached, contexts, indexing="ij")
    decode = _between_batches(times, *grid, min(server.max_num_seqs, most)).reshape(grid[0].shape)
    return MockerTable(new, prefill / MS, cached, contexts, decode / MS)


def planner_arrays(subject: Subject) -> tuple[dict[str, Floats | Ints], dict[str, Floats | Ints]]:
    """What the profiler writes of a prefill engine and of a decode engine: arrays by name."""
    server, times, gpus = subject.server, step_us(subject), subject.deployment.tp
    isl = np.unique(np.rint(np.geomspace(SHORTEST, server.max_num_batched_tokens, PREFILL_POINTS // 2)))
    ttft = times(0, 0, isl) / MS
    capacity = server.num_gpu_blocks * server.block_size
    rows: list[tuple[float, float]] = []
    for context in np.rint(np.geomspace(SHORTEST * 8, min(server.max_model_len, capacity) / 2, PLANNER_CONTEXTS)):
        most = max(1, min(server.max_num_seqs, int(capacity / context)))
        batches = np.unique(np.rint(np.geomspace(1, most, PLANNER_BATCHES)))
        rows += [(batch, float(context)) for batch in batches]
    batch, context = np.array(rows).T
    itl = times(batch, context) / MS
    prefill: dict[str, Floats | Ints] = {
        "prefill_isl": isl.astype(np.int64),
        "prefill_ttft": ttft,
        "prefill_thpt_per_gpu": 1e3 * isl / ttft / gpus,
    }
    decode: dict[str, Floats | Ints] = {
        "x_kv_usage": batch * context / capacity,
        "y_context_length": context,
        "z_itl": itl,
        "z_thpt_per_gpu": 1e3 * batch / itl / gpus,
        "max_kv_tokens": np.array([capacity], np.int64),
    }
    return prefill, decode


def export_dynamo(subject: Subject, folder: Path, *, aggregated: bool = True) -> Exported:
    """`perf_data.npz` for the mocker, and the two folders that the planner reads, below `folder`."""
    table = mocker_table(subject, aggregated=aggregated)
    prefill, decode = planner_arrays(subject)
    losses = [*_mocker_losses(subject, table, aggregated), *_planner_losses(subject, prefill, decode)]
    told = "\n".join((*subject.provenance, *(loss.sentence for loss in losses)))
    files: dict[Path, str | bytes] = {
        folder / "perf_data.npz": npz({**vars(table), "roofml": np.array(told)}),
        folder / "selected_prefill_interpolation" / "raw_data.npz": npz({**prefill, "roofml": np.array(told)}),
        folder / "selected_decode_interpolation" / "raw_data.npz": npz({**decode, "roofml": np.array(told)}),
    }
    request = subject.calibration.parameters.request
    remarks = [
        "what a request waits for before the scheduler's queue and after its last step "
        f"({(request.queueing_us + request.pipeline_delay_us) / MS:.1f} ms) has no place in it",
        "what a prompt's later chunks read of its earlier ones has none either",
    ]
    if aggregated:
        remarks.append(
            "a prompt takes what it adds to a step of decodes, so that one without any comes too early; "
            "--disaggregated is for instances that compute prompts alone"
        )
    server = subject.server
    words = ["python", "-m", "dynamo.mocker", "--model-path", subject.deployment.hf_repo]
    words += ["--planner-profile-data", str(folder / "perf_data.npz")]
    words += ["--num-gpu-blocks-override", str(server.num_gpu_blocks), "--block-size", str(server.block_size)]
    words += ["--max-num-seqs", str(server.max_num_seqs), "--max-model-len", str(server.max_model_len)]
    words += ["--max-num-batched-tokens", str(server.max_num_batched_tokens)]
    return Exported(TARGET, files, losses, subject.provenance, remarks, for_line(for_shell(words)))


def npz(arrays: Mapping[str, Floats | Ints]) -> bytes:
    """The arrays as a file of NumPy: the same bytes of the same arrays."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _between_batches(times: StepUs, cached: Floats, context: Floats, most: int) -> Floats:
    """Step times, µs, of so many tokens in the cache at a mean context: between those of two numbers of decodes."""
    batch = np.clip(cached / context, 1.0, most).ravel()
    few, context = np.floor(batch), context.ravel()
    many = np.minimum(few + 1, most)
    share = batch - few
    return (1 - share) * times(few, context) + share * times(many, context)


def _cell(axis: Floats, values: Floats) -> tuple[Ints, Floats]:
    """The grid point below each value, and how far it is to the next."""
    place = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
    return place, (values - axis[place]) / (axis[place + 1] - axis[place])


def _judged(subject: Subject) -> tuple[Floats, Floats, Floats]:
    """Random decodes, contexts and new tokens of steps that the server can run."""
    server, random = subject.server, np.random.default_rng(2)
    capacity = server.num_gpu_blocks * server.block_size
    most = min(server.max_num_seqs, server.max_num_batched_tokens - 1)
    decodes = np.rint(np.exp(random.uniform(0, np.log(most), JUDGED)))
    longest = np.minimum(server.max_model_len, capacity / decodes)
    context = np.floor(np.exp(random.uniform(np.log(np.minimum(SHORTEST, longest)), np.log(longest))))
    new = np.rint(np.exp(random.uniform(0, np.log(server.max_num_batched_tokens - decodes))))
    return decodes, np.maximum(context, 1.0), np.maximum(new, 1.0)


def _mocker_losses(subject: Subject, table: MockerTable, aggregated: bool) -> Sequence[Loss]:
    times = step_us(subject)
    decodes, context, new = _judged(subject)
    decode = table.decode_ms(decodes * context, context)
    losses = [Loss.of("mocker, a step of decodes", decode, times(decodes, context) / MS)]
    if aggregated:
        mixed = times(decodes, context, new) / MS
        losses.append(Loss.of("mocker, a step with a prompt", decode + table.prefill_ms(new), mixed))
    alone = times(0, 0, new) / MS
    return [*losses, Loss.of("mocker, a prompt by itself", table.prefill_ms(new), alone)]


def _planner_losses(
    subject: Subject, prefill: Mapping[str, Floats | Ints], decode: Mapping[str, Floats | Ints]
) -> Sequence[Loss]:
    """Of the straight lines that the planner fits by least squares to what it reads."""
    times = step_us(subject)
    decodes, context, new = _judged(subject)
    first = _line(prefill["prefill_ttft"], prefill["prefill_isl"])
    batch = np.rint(decode["x_kv_usage"] * decode["max_kv_tokens"] / decode["y_context_length"])
    kv = batch * decode["y_context_length"]
    later = _line(decode["z_itl"], batch, kv)
    return [
        Loss.of("planner's line, a prompt", first[0] + first[1] * new, times(0, 0, new) / MS),
        Loss.of(
            "planner's plane, decodes",
            later[0] + later[1] * decodes + later[2] * decodes * context,
            times(decodes, context) / MS,
        ),
    ]


def _line(values: Floats | Ints, *columns: Floats | Ints) -> Floats:
    """Intercept and slopes by least squares."""
    basis = np.column_stack((np.ones(len(values)), *columns))
    return np.linalg.lstsq(basis, values, rcond=None)[0].astype(np.float64)
