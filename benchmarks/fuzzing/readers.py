"""Targets: every reader of a file from outside, mostly with parsed documents, for parsing is what takes the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, cast
from unittest import mock

import numpy as np

from roofml.blis.deployment import BlisCoefficients, hardware_of
from roofml.calibration import coefficients, other_models
from roofml.export.defaults import ModelEntry, edit_defaults
from roofml.export.hardware import edit_hardware
from roofml.hardware import gpu as gpus
from roofml.hardware.read_kernels import read_rows
from roofml.latency.kv_capacity import kv_capacity
from roofml.models import hub, hub_http
from roofml.models.load import load_model
from roofml.models.operations import AttentionOp
from roofml.models.spec import ModelSpec, model_from_config
from roofml.util.errors import InputError
from roofml.util.reading import parse_json
from roofml.util.yaml_io import parse_mapping, read_mapping

from . import seeds
from .making import PATH, mapping_of, need, of_bytes, of_documents, one_file, rendered, work_folder, write
from .mutation import Tree, mutate_bytes, mutate_tree
from .rendering import as_json, as_yaml
from .target import Target
from .trace_readers import (
    files_of_case,
    make_otlp,
    make_parquet,
    make_run,
    take_otlp,
    take_parquet,
    take_run,
    take_run_files,
)

# Models.


def _models() -> list[Tree]:
    quant = seeds.quant_config()
    return [
        [config, quant if number % 8 == 0 else None] for number, config in enumerate(seeds.model_configs().values())
    ]


def _take_model(pair: Tree) -> None:
    if not isinstance(pair, list) or len(cast("list[Tree]", pair)) != 2:
        return
    config, quant = cast("list[Tree]", pair)
    check_model(model_from_config(mapping_of(config), "input", "0" * 64, quant))


@cache
def _gpu() -> gpus.Gpu:
    return gpus.load_gpu("H100")


def check_model(model: ModelSpec) -> None:
    """Raise NonsenseError where a count is none, or the model cannot be what its config says."""
    counts: list[Any] = [
        model.parameters(),
        model.active_parameters(),
        model.hidden_size,
        model.vocab_size,
        model.num_layers,
    ]
    need(model.active_parameters() <= model.parameters(), "more parameters are active than there are")
    for tp in (1, 2, 8):
        try:
            counts += [model.weight_bytes(tp)]
        except InputError:
            continue
        for gemm in model.gemms(tp):
            counts += [gemm.n, gemm.k, gemm.count, gemm.weight_bytes, gemm.flops_per_row]
        for op in model.mixers(tp):
            counts += [op.count, op.heads]
            sizes = [op.kv_bytes, op.keys(1000)] if isinstance(op, AttentionOp) else [op.state_bytes]
            counts += sizes
        need(model.kv_bytes_per_token(tp) >= 0, "bytes of the KV cache below 0")
        try:
            kv_capacity(model, _gpu(), tp)
        except InputError:
            continue
    whole = all(isinstance(count, int) and count > 0 for count in counts)
    need(whole, f"counts of a model: {[count for count in counts if not isinstance(count, int) or count <= 0][:5]}")


def _model_texts() -> list[bytes]:
    return [as_json(config) for config in seeds.model_configs().values()]


def _take_model_file(raw: bytes) -> None:
    check_model(load_model(str(write("config.json", raw))))


# Coefficients, sheets, tables.


def _take_coefficients(tree: Tree) -> None:
    made = coefficients.coefficients_of(mapping_of(tree), PATH)
    need(bool(np.isfinite(made.values).all()), "values of coefficients that are no numbers")
    need(bool(np.isfinite(made.covariance).all()), "a covariance that is no number")
    text = coefficients.coefficients_text(made)
    if len(text) % 500 == 0:  # parsing takes a hundred times as long as the rest
        again = coefficients.coefficients_of(parse_mapping(text, PATH), PATH)
        need(again == made, "coefficients that are not read as they were written")


def _take_other_models(tree: Tree) -> None:
    document = mapping_of(tree)
    with mock.patch.object(other_models, "read_mapping", return_value=document):
        made = other_models.read_other_models(PATH)
    evidence = [member.evidence(made.parameters) for member in made.members]
    finite = all(np.isfinite(one.mean).all() and np.isfinite(one.covariance).all() for one in evidence)
    need(finite, "other models' fits that are no numbers")


def _take_sheet(tree: Tree) -> None:
    document = mapping_of(tree)
    with mock.patch.object(gpus, "read_mapping", return_value=document):
        gpu = gpus.load_gpu("input.yaml")
    numbers = [gpu.bandwidth_bytes_per_us, gpu.memory_bytes, gpu.interconnect_bytes_per_us, gpu.sm_count]
    numbers += [*gpu.flops_per_us.values(), gpu.process_memory_bytes]
    need(all(number > 0 and math.isfinite(number) for number in numbers), "a GPU's number is none")


TABLES: dict[str, tuple[tuple[str, ...], str, tuple[str, ...] | None]] = {
    "gemm.csv": (("n", "k"), "dtype", None),
    "decode_attention.csv": (("heads", "kv_heads", "head_dim"), "kv_dtype", ("fixed_us", "item_us", "mbu", "sd")),
    "allreduce.csv": (("gpus", "bytes"), "", ("time_us",)),
}


def _make_table(random: Random, steps: tuple[Random, ...]) -> tuple[str, bytes]:
    name = random.choice(list(TABLES))
    raw = b"\n".join(_table_lines(name)) + b"\n"
    for step in steps:
        raw = mutate_bytes(raw, step)
    return name, raw


@cache
def _table_lines(name: str) -> list[bytes]:
    return seeds.kernel_table(name).read_bytes().split(b"\n")[:16]


def _take_table(case: tuple[str, bytes]) -> None:
    name, raw = case
    sizes, first, values = TABLES[name]
    rows = read_rows(write(name, raw), sizes, first, values)
    need(bool(np.isfinite(rows.sizes).all()), "a size in a table that is no number")
    need(not np.isinf(rows.values).any(), "an infinite value in a table")


# The exporter's files.

BETAS = BlisCoefficients.of([9000.0, 400.0, 3.0], [1.4, 0.0, 1.3, 1.0, 12.0, 2.0, 90.0, 0.0, 0.0, 1.8, 1.0], "input")
ENTRY = ModelEntry("llama-2-7b-hf", "H100", 1, seeds.MODEL)


def _defaults() -> list[bytes]:
    document = {"version": "1", "defaults": {}, "trained_physics_coefficients": {"alpha_coeffs": [1, 2, 3]}}
    return [seeds.DEFAULTS.encode(), b"", as_yaml(document), b"lora:\n"]


def _take_defaults(raw: bytes) -> None:
    path = write("defaults.yaml", raw)
    edit = edit_defaults(path, BETAS, ENTRY, ["fitted"], replace=True)
    path.write_bytes(edit.after.encode())
    again = edit_defaults(path, BETAS, ENTRY, ["fitted"], replace=True)
    need(not again.changed, "a second export changes the file again")


def _take_hardware_config(raw: bytes) -> None:
    path = write("hardware_config.json", raw)
    edit = edit_hardware(path, "H100", _hardware())
    after = parse_json(edit.after, path)
    need(isinstance(after, dict) and "H100" in after, "the GPU is not in the file")


@cache
def _hardware() -> Any:
    return hardware_of(_gpu())


# What the Hub answers.


def _make_hub(random: Random, steps: tuple[Random, ...]) -> dict[str, Any]:
    case: dict[str, Any] = {
        **{"listing": seeds.hub_listing(), "config.json": dict(seeds.model_configs()[seeds.LOCAL_MODEL])},
        **{"hf_quant_config.json": seeds.quant_config(), "status": 200, "commit": "a" * 40},
    }
    for step in steps:
        name = step.choice(list(case))
        if name == "status":
            case[name] = step.choice((200, 204, 301, 401, 403, 404, 429, 500, 503, 0, -1))
        elif name == "commit":
            case[name] = step.choice(("b" * 40, "", "a" * 39, "main", "\x1b[1m"))
        else:
            content = case[name]
            raw = isinstance(content, bytes) or step.random() < 0.2
            case[name] = mutate_bytes(rendered(name, content), step) if raw else mutate_tree(content, step)
    return case


def _take_hub(case: dict[str, Any]) -> None:
    def answer(url: str, what: str, most: int, give_up_at: float) -> hub_http.Answer:
        name = url.rsplit("/", 1)[-1]
        name = name if name in case else "listing"
        content = case[name]
        body = content if isinstance(content, bytes) else as_json(content)
        return hub_http.Answer(case["status"], "", frozenset({case["commit"]}), body)

    def at_once(_: float, job: Callable[[], Any]) -> Any:
        return job()

    folder = work_folder() / "pulled"
    with mock.patch.object(hub, "get", answer), mock.patch.object(hub, "within", at_once):
        try:
            pulled = hub.pull(seeds.MODEL, folder=folder, cache_dir=work_folder() / "no-cache")
            names = {path.name for path in pulled.folder.iterdir()}
            need(names == {*pulled.files, "provenance.json"}, f"files that were pulled: {sorted(names)}")
        finally:
            for path in folder.glob("*/*"):
                path.unlink()


def _files_of_hub(case: dict[str, Any]) -> Mapping[str, bytes]:
    return {name: rendered(f"{name}.json", content) for name, content in case.items()}


# Texts.


def _yaml_texts() -> list[bytes]:
    trees = [seeds.header(), seeds.exp_config(), seeds.inference_perf(), seeds.sheets()[0]]
    block = b"a: 1\nb:\n  - x\n  - {y: 2}\nc: |\n  text\n  more\nd: 'q'\ne: [1, 2.5, .nan, 0x1f, ~]\n"
    return [*map(as_yaml, trees), block, b"# only\n", b"%YAML 1.2\n---\na: b\n...\n"]


def _take_yaml(raw: bytes) -> None:
    read_mapping(write("input.yaml", raw))


def _take_json(raw: bytes) -> None:
    parse_json(raw, PATH)


HARDWARE_CONFIGS = [as_json(seeds.HARDWARE_CONFIG), b"{}", b"", b'{"a": {}}']
JSON_TEXTS = [as_json(seeds.header()), b'{"a": [1, 2.5, null, true, "x"]}', b"[1e5]"]

TARGETS: tuple[Target, ...] = (
    Target("model-config", of_documents(_models), _take_model, one_file, share=24),
    Target("model-config-bytes", of_bytes(_model_texts), _take_model_file, one_file, share=3),
    Target("coefficients", of_documents(seeds.coefficients), _take_coefficients, one_file, share=14),
    Target("global-yaml", of_documents(lambda: [seeds.other_models()]), _take_other_models, one_file, share=8),
    Target("gpu-sheet", of_documents(seeds.sheets), _take_sheet, one_file, share=14),
    Target("kernel-table", _make_table, _take_table, one_file, share=8),
    Target("trace", make_run, take_run, files_of_case, share=9),
    Target("trace-files", make_run, take_run_files, files_of_case, share=1),
    Target("otlp", make_otlp, take_otlp, one_file, share=5),
    Target("parquet", make_parquet, take_parquet, one_file, share=2),
    Target("defaults-yaml", of_bytes(_defaults), _take_defaults, one_file, share=2),
    Target("hardware-config", of_bytes(lambda: HARDWARE_CONFIGS), _take_hardware_config, one_file, share=4),
    Target("hub", _make_hub, _take_hub, _files_of_hub, share=3),
    Target("yaml", of_bytes(_yaml_texts), _take_yaml, one_file, share=2),
    Target("json", of_bytes(lambda: JSON_TEXTS), _take_json, one_file, share=6),
)
"""Their shares are by how fast they are: a million cases take less than half an hour on two cores."""

TAKE: Mapping[str, Callable[[Any], None]] = {target.name: target.take for target in TARGETS}
"""Target -> what takes its input."""


def take_trace_table(raw: bytes) -> None:
    """A `trace.csv` beside good files."""
    take_run(
        {
            "trace.yaml": seeds.header(),
            "exp-config.yaml": seeds.exp_config(),
            "kv-cache.yaml": seeds.kv_cache(),
            "trace.csv": raw,
        }
    )


def take_gemm_table(raw: bytes) -> None:
    """A table of measured products."""
    _take_table(("gemm.csv", raw))


def take_listing(raw: bytes) -> None:
    """What the Hub says about a repository, with good files behind it."""
    config = seeds.model_configs()[seeds.LOCAL_MODEL]
    _take_hub({"listing": raw, "config.json": config, "hf_quant_config.json": {}, "status": 200, "commit": "a" * 40})
