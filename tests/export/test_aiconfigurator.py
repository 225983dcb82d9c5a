"""A system folder for AIConfigurator: its files, its sums, and its own engine on it where that is installed."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import read_yaml
from fitted import a_calibration, a_run

from roofml.calibration.calibrate import physics
from roofml.export.aiconfigurator import (
    MOST_TOKENS,
    export_aiconfigurator,
    layers_of,
    system_name,
)
from roofml.export.decode_steps import step_us
from roofml.export.subject import Lengths, Subject, read_subject, server_of
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.package_data import data_folder

ARROW = importlib.util.find_spec("pyarrow") is not None
needs_arrow = pytest.mark.skipif(not ARROW, reason="tables need pyarrow: pip install 'roofml[bench]'")


@pytest.fixture
def subject(coefficients: Callable[..., Path]) -> Subject:
    said = ServerOverrides(max_num_seqs=64, max_num_batched_tokens=2048)
    return read_subject([coefficients()], said, (600, 100))


def tables_of(files: dict[Path, Any]) -> dict[str, list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    found = {path.stem: path for path in files if path.suffix == ".parquet"}
    return {name: pq.read_table(io.BytesIO(files[path])).to_pylist() for name, path in found.items()}


@needs_arrow
def test_the_folder_has_what_its_loader_looks_for(subject: Subject) -> None:
    files = dict(export_aiconfigurator(subject, Path("s")).files)
    name = system_name(subject)
    sheet = read_yaml(str(files[Path("s") / f"{name}.yaml"]))
    assert sheet["data_dir"] == f"data/{name}"
    assert sheet["gpu"]["mem_capacity"] == subject.deployment.gpu.memory_bytes
    versions = read_yaml(str(files[Path("s/query_versions.yaml")]))
    current = versions["defaults"]["vllm"]["current"]
    for family in ("gemm", "attention", "comm"):
        meta = read_yaml(str(files[Path(f"s/data/{name}/{family}/vllm/{current}/collection_meta.yaml")]))
        own = {path.stem for path in files if path.suffix == ".parquet" and family in path.parts}
        assert set(meta["tables"]) == own
    for rows in tables_of(files).values():
        assert all(row["latency"] > 0 for row in rows)
        assert all(isinstance(row["latency"], float) for row in rows)


@needs_arrow
def test_products_and_attention_sum_up_to_our_step(subject: Subject) -> None:
    tables = tables_of(dict(export_aiconfigurator(subject, Path("s")).files))
    layers, times = layers_of(subject), step_us(subject, budget=MOST_TOKENS)
    head = (layers.head.n, layers.head.k)

    def gemms(tokens: int) -> float:
        return sum(r["latency"] for r in tables["gemm_perf"] if r["m"] == tokens and (r["n"], r["k"]) != head)

    def logits(rows: int) -> float:
        return next(r["latency"] for r in tables["gemm_perf"] if r["m"] == rows and (r["n"], r["k"]) == head)

    for row in tables["generation_attention_perf"][::7]:
        batch, context = row["batch_size"], row["step"] + 1
        step = layers.count * (gemms(batch) + row["latency"]) + logits(batch)
        assert step == pytest.approx(times(batch, context)[0] / 1e3, rel=1e-3)
    known = {row["m"] for row in tables["gemm_perf"]}
    checked = 0
    for row in tables["context_attention_perf"]:
        prompts, tokens = row["batch_size"], row["isl"]
        if prompts * tokens in known and prompts in known and prompts * tokens > 64:
            step = layers.count * (gemms(prompts * tokens) + row["latency"]) + logits(prompts)
            assert step == pytest.approx(times(0, 0, tokens, 0, prompts)[0] / 1e3, rel=0.01)
            checked += 1
    assert checked > 3


@needs_arrow
def test_shapes_are_those_of_one_rank(subject: Subject) -> None:
    tables = tables_of(dict(export_aiconfigurator(subject, Path("s")).files))
    shapes = {(row["n"], row["k"]) for row in tables["gemm_perf"]}
    assert shapes == {(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (32000, 4096)}
    heads = {(r["num_heads"], r["num_key_value_heads"], r["head_dim"]) for r in tables["generation_attention_perf"]}
    assert heads == {(32, 32, 128)}


@needs_arrow
def test_losses_are_small_and_told_in_every_text(subject: Subject) -> None:
    exported = export_aiconfigurator(subject, Path("s"))
    assert all(loss.median_pct < 5 for loss in exported.losses)
    texts = [str(content) for path, content in exported.files.items() if path.suffix == ".yaml"]
    assert len(texts) == 5
    for text in texts:
        assert all(f"# {loss.sentence}" in text for loss in exported.losses)


@needs_arrow
def test_the_same_subject_gives_the_same_bytes(subject: Subject) -> None:
    assert export_aiconfigurator(subject, Path("s")).files == export_aiconfigurator(subject, Path("s")).files


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("mixtral-8x7b-v0.1", "other products in a layer"),
        ("gpt-oss-20b", "attention|other layers|products"),
    ],
)
def test_a_model_that_is_not_dense_is_refused_by_name(model: str, why: str) -> None:
    calibration = physics(model, gpu="H100", tp=2)
    server = server_of(calibration, ServerOverrides())
    lengths = Lengths(np.array([10]), np.array([10]), "test")
    with pytest.raises(NotSupportedError, match=f"^{model}: .*({why})"):
        layers_of(Subject(calibration, server, lengths))


def test_another_type_of_cache_is_refused() -> None:
    run = a_run()
    run = replace(run, server=replace(run.server, kv_dtype="fp8"))
    lengths = Lengths(run.prompt_tokens, run.output_tokens, "test")
    with pytest.raises(NotSupportedError, match="a KV cache of fp8"):
        layers_of(Subject(a_calibration([run]), run.server, lengths))


@pytest.mark.skipif(ARROW, reason="pyarrow is installed")
def test_without_pyarrow_it_says_what_to_install(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"roofml\[bench\]"):
        export_aiconfigurator(subject, Path("s"))


@needs_arrow
@pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="pip install 'roofml[aiconfigurator]'"
)
def test_its_own_engine_says_what_we_say(subject: Subject, tmp_path: Path) -> None:
    from aiconfigurator_core.sdk.engine import EngineHandle  # pyright: ignore[reportMissingImports]

    export_aiconfigurator(subject, tmp_path / "s").write()
    (version,) = (tmp_path / "s" / "data" / system_name(subject) / "gemm" / "vllm").iterdir()
    handle = EngineHandle.compile(
        str(data_folder("model_configs") / "llama-2-7b-hf"),
        system_name(subject),
        "vllm",
        backend_version=version.name,
        tp_size=1,
        systems_path=str(tmp_path / "s"),
    )
    times = step_us(subject, budget=MOST_TOKENS)
    for batch, context in ((1, 128), (8, 300), (20, 777), (64, 1000)):
        theirs = handle.predict_decode_latency(batch, context)
        assert theirs == pytest.approx(times(batch, context)[0] / 1e3, rel=0.01)
    for prompts, tokens in ((1, 200), (1, 1024), (1, 1900), (4, 300), (8, 1000)):
        theirs = handle.predict_prefill_latency(prompts, tokens)
        assert theirs == pytest.approx(times(0, 0, tokens, 0, prompts)[0] / 1e3, rel=0.02)
    for new, decodes, prompt, output in ((512, 32, 1024, 256), (1024, 60, 1024, 256)):
        theirs = handle.mixed_step_latency(new, decodes, prompt, output)
        assert theirs == pytest.approx(times(decodes, prompt + output // 2, new)[0] / 1e3, rel=0.06)
