"""Reader: the ground truth of BLIS (inference-sim/training): `RUN.json`, the load, and `RUN_ground_truth.json`.

Two folders beside them, where they exist, lie the server's settings (`default_args/RUN/exp-config.yaml`) and the load
generator's (`default_args/RUN/results/config.yaml`, of inference-perf). Times of arrival are in µs, latencies in
seconds; requests and truth are joined by `index`. The output tokens were counted by tokenizing the answers again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import values
from roofml.traces.formats.documents import MOST_BYTES, run_name
from roofml.traces.formats.peek import peek
from roofml.traces.inference_perf import read_inference_perf
from roofml.traces.raw import Generator
from roofml.traces.recording import Facts, Recording, Requests
from roofml.traces.tracev2 import EXP_CONFIG_KEYS
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.util.reading import as_object, is_folder, is_there, parse_quickly, read_bytes, refuse
from roofml.util.yaml_io import read_mapping

TRUTH = "_ground_truth"
CONFIG_KEYS = {
    "tensor_parallelism": "tensor_parallel",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "kv_blocks_total_gpu": "num_gpu_blocks",
    "block_size": "block_size",
}
"""Key of `config` -> field of `Server`."""
FOLDER = "replay_data"
MOST_RUNS = 1_000


def detect(path: Path) -> bool:
    """Whether `path` is either file of a run, or a folder of them or around it, by the names in them."""
    if is_folder(path):
        return bool(_loads(path))
    return _is_load(path) or _is_truth(path)


def read(path: Path) -> list[Recording]:
    """The run that the file `path` belongs to, or those in the folder. Raises InputError naming file and field."""
    if is_folder(path):
        return [_read(load) for load in _loads(path)]
    return [_read(path if _is_load(path) else path.with_name(path.name.replace(TRUTH, "", 1)))]


def _is_load(path: Path) -> bool:
    return peek(path).has("experiment", "requests", "config.kv_blocks_total_gpu")


def _is_truth(path: Path) -> bool:
    shown = peek(path)
    return shown.is_list and shown.has("index", "has_error") and TRUTH in path.name


def _loads(folder: Path) -> list[Path]:
    """The files of loads in a folder, or in its `replay_data`."""
    found: list[Path] = []
    for place in (folder, folder / FOLDER):
        if not is_folder(place):
            continue
        try:
            names = sorted(entry.name for entry in os.scandir(place) if not entry.name.startswith("."))
        except OSError as error:
            refuse(place, error)
        found += [place / name for name in names[: 2 * MOST_RUNS] if TRUTH not in name and _is_load(place / name)]
    return found


def _truth_of(load: Path) -> Path:
    name, dot, endings = load.name.partition(".json")
    return load.with_name(f"{name}{TRUTH}{dot}{endings}")


def _read(load: Path) -> Recording:
    document = as_object(parse_quickly(read_bytes(load, MOST_BYTES), load), load)
    source = str(load)
    requests = _rows(source, document.get("requests"), "requests")
    truth_path = _truth_of(load)
    truth = _rows(str(truth_path), parse_quickly(read_bytes(truth_path, MOST_BYTES), truth_path), "the list")
    index = _index(source, requests)
    place = {number: row for row, number in enumerate(_index(str(truth_path), truth).tolist())}
    nothing: Mapping[str, Any] = {}
    joined = [truth[place[number]] if number in place else nothing for number in index.tolist()]
    arrivals = values.times_us(source, "arrival_time_us", [row.get("arrival_time_us") for row in requests], 1.0)
    ttft = values.times_us(str(truth_path), "ttft_s", [row.get("ttft_s") for row in joined])
    e2e = values.times_us(str(truth_path), "e2e_s", [row.get("e2e_s") for row in joined])
    failed = [
        bool(row.get("has_error")) or bool(said.get("has_error")) for row, said in zip(requests, joined, strict=True)
    ]
    ok = ~np.array(failed, np.bool_) & np.isfinite(ttft) & np.isfinite(e2e)
    if not np.isfinite(arrivals).all():
        row = int(np.argmin(np.isfinite(arrivals)))
        raise InputError(f"{source}: requests: {row + 1}: arrival_time_us is missing")
    output = values.counts(source, "output_tokens", [row.get("output_tokens") for row in requests])
    facts, generator, hints = _server(load, source, document)
    absent = int(sum(number not in place for number in index.tolist()))
    return Recording(
        name=run_name(load),
        source=source,
        format="blis-ground-truth",
        requests=len(requests),
        completed=int(ok.sum()),
        each=Requests(
            send_us=arrivals,
            input_tokens=values.counts(source, "input_tokens", [row.get("input_tokens") for row in requests]),
            server_input_tokens=np.zeros(len(requests), np.int64),
            output_tokens=output,
            ttft_us=np.where(ok, ttft, np.nan),
            e2e_us=np.where(ok, e2e, np.nan),
            ok=ok,
        ),
        facts=facts,
        hints=hints,
        generator=generator,
        findings=tuple(_findings(requests, absent, generator)),
        refused=None if ok.any() else f"all {len(requests)} requests failed",
    )


def _rows(source: str, listed: object, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{source}: {what}: expected a list of requests")
    rows = cast("list[Any]", listed)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{source}: {what}: {number}: expected an object")
    return rows


def _index(source: str, rows: list[Mapping[str, Any]]) -> Ints:
    if any(row.get("index") is None for row in rows):
        raise InputError(f"{source}: index is missing, expected one in each request")
    index = values.counts(source, "index", [row["index"] for row in rows])
    numbers, times = np.unique(index, return_counts=True)
    if (times > 1).any():
        raise InputError(f"{source}: index {numbers[times > 1][0]} is there {times.max()} times, expected it once")
    return index


def _server(
    load: Path, source: str, document: Mapping[str, Any]
) -> tuple[dict[str, Facts], Generator | None, dict[str, Facts]]:
    """(facts by file, the load generator's settings, hints by file)."""
    config: object = document.get("config")
    if not isinstance(config, dict):
        raise InputError(f"{source}: config: expected an object")
    settings = cast("dict[str, Any]", config)
    found: dict[str, object] = {name: settings[key] for key, name in CONFIG_KEYS.items() if settings.get(key)}
    model = values.word(document, "model_id")
    if model is not None:
        found["model"] = model
    facts: dict[str, Facts] = {load.name: found}
    hints: dict[str, Facts] = {}
    generator = None
    folder = load.resolve().parent.parent / "default_args" / run_name(load)
    if is_there(folder / "exp-config.yaml"):
        said = read_mapping(folder / "exp-config.yaml")
        facts["exp-config.yaml"] = {field: said[key] for key, field in EXP_CONFIG_KEYS.items() if key in said}
    if is_there(folder / "results" / "config.yaml"):
        generator, asked = read_inference_perf(folder / "results" / "config.yaml")
        hints = {"results/config.yaml": {"model": asked}} if asked is not None else {}
    return facts, generator, hints


def _findings(requests: list[Mapping[str, Any]], absent: int, generator: Generator | None) -> list[Finding]:
    findings: list[Finding] = []
    if absent:
        summary = f"{absent} of {len(requests)} requests have no row in the ground truth."
        advice = "They are taken to have failed."
        findings.append(Finding("rows-not-joined", "warning", summary, {"requests": absent}, advice))
    groups = sum(1 for row in requests if row.get("prefix_group"))
    if groups:
        summary = f"{groups} requests name a prefix_group, whose length is not in the file."
        advice = "Nothing is shared in the replay but whole prompts that repeat."
        findings.append(Finding("prefix-length-missing", "warning", summary, {"requests": groups}, advice))
    if generator is None:
        summary = "output_tokens were counted by tokenizing the answers again, and nobody says what was asked for."
        advice = "Give --output-tokens if every request made the same number, or the repository's default_args."
        findings.append(Finding("retokenized", "warning", summary, {"requests": len(requests)}, advice))
    return findings
