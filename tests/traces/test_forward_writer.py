"""Our files against the program that reads and writes them, where its source is at hand.

Set ROOFML_VLLM_SOURCE to a folder that holds `vllm/`, an unpacked wheel of vLLM 0.33 or a site-packages. Nothing of it
is imported but the one file that needs neither torch nor a GPU.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forward_files import case, latency

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.forwards.cases import candidates, limits_of
from roofml.calibration.forwards.command import bench_command
from roofml.latency.deployment import deploy


@pytest.fixture(scope="module")
def source() -> Path:
    folder = Path(os.environ.get("ROOFML_VLLM_SOURCE", "/nowhere")) / "vllm"
    if not (folder / "benchmarks" / "forward" / "shapes.py").is_file():
        pytest.skip("set ROOFML_VLLM_SOURCE to a folder that holds vllm/ of 0.33 or later")
    return folder


@pytest.fixture(scope="module")
def shapes(source: Path) -> ModuleType:
    """vLLM's own reader of cases, its `regex` replaced by the standard one."""
    spec = importlib.util.spec_from_file_location("vllm_shapes", source / "benchmarks" / "forward" / "shapes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("regex")
    sys.modules["regex"] = re
    sys.modules["vllm_shapes"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop("regex") if before is None else sys.modules.update(regex=before)
    return module


def keys_of(path: Path) -> set[str]:
    """Every name that a file may write into a mapping: of literals, of keyword arguments, and by assignment."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        elif isinstance(node, ast.Call):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.add(str(node.slice.value))
    return found


def test_what_we_propose_is_what_it_reads(shapes: ModuleType, tmp_path: Path) -> None:
    deployment = uncalibrated(deploy("llama-3.1-8b-instruct", "H100", 1, engine_version="0.33.0")).deployment
    cases = candidates(limits_of(deployment))
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps({"cases": [each.to_dict() for each in cases]}))
    read: list[Any] = shapes.load_cases(str(path))
    assert [each.name for each in read] == [each.name for each in cases]
    for theirs, ours in zip(read, cases, strict=True):
        wanted = [(r.new_tokens, r.context, r.decodes, r.chunked) for r in ours.requests]
        assert [(r.query_len, r.prefix_len, r.is_decode, r.chunked) for r in theirs.requests] == wanted
        assert shapes.parse_case(f"{ours.name}={ours.syntax}") == theirs
        assert shapes.jitter_kv_lens(theirs, 0.0, 10**9, 0) == theirs  # what --kv-len-jitter 0 leaves as it is


def test_what_our_tests_make_up_is_what_it_writes(source: Path) -> None:
    folder = source / "benchmarks" / "forward"
    made = case("x", [(1, 9, 0, False)], 9.0)
    assert set(made) <= keys_of(folder / "main.py")
    assert set(latency(9.0)) <= keys_of(folder / "capture.py")
    of_rank = set(made["ranks"][0])
    assert of_rank <= keys_of(folder / "main.py") | keys_of(folder / "capture.py")
    capture = (folder / "capture.py").read_text("utf-8")
    for word in ('"graph_events"', '"_rank_max"', '"target_only"', '"target_and_drafter"'):
        assert word in capture, word
    assert {"kernels", "us", "name"} <= keys_of(folder / "profile.py")
    assert '"top_kernels"' in capture


def test_the_command_line_has_only_its_options(source: Path) -> None:
    deployment = deploy("llama-3.1-8b-instruct", "L4", 1, engine_version="0.33.0", kv_dtype="fp8")
    text = (source / "benchmarks" / "forward" / "main.py").read_text("utf-8")
    engine = (source / "engine" / "arg_utils.py").read_text("utf-8")
    for word in bench_command(deployment, limits_of(deployment), "s.json", "o.json"):
        if word.startswith("--"):
            assert f'"{word}"' in text + engine, word
