"""Engines and their versions: how one is read, and what stands for one that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.traces.engine_version import (
    ASSUMED,
    NEWEST,
    parse_version,
    release_of,
    schedules_ahead,
    version_findings,
    wider_for,
)
from roofml.traces.server import ServerOverrides, resolve_server
from roofml.util.errors import InputError


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("0.15.1", (0, 15, 1)),
        ("v0.33.0", (0, 33, 0)),
        ("0.9", (0, 9, 0)),
        ("0.16.1rc1.dev45+gdf3b6e5", (0, 16, 1)),
        ("0.8.5.post1", (0, 8, 5)),
        ("1.0.0", (1, 0, 0)),
    ],
)
def test_versions(text: str, release: tuple[int, int, int]) -> None:
    assert parse_version(text, "x") == release


@pytest.mark.parametrize("text", ["", "latest", "0", "0.15.x", "-1.2.3", "0.15.1\n", "0.15.1; rm", "9" * 50])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--engine-version: .* expected a version such as 0\.15\.1$"):
        parse_version(text, "--engine-version")


def test_what_stands_for_a_version() -> None:
    assert release_of("vllm", "0.20.2") == (0, 20, 2)
    assert release_of("vllm", None) == ASSUMED
    assert release_of("vllm", "0.34.0") == release_of("vllm", "2.0") == NEWEST
    assert release_of("sglang", "0.5.9") == release_of("tensorrt-llm", "1.2") == NEWEST
    with pytest.raises(InputError, match=r"vLLM before 0\.8\.0 has another scheduler"):
        release_of("vllm", "0.7.3")


@pytest.mark.parametrize(
    ("engine", "version", "code", "severity"),
    [
        ("vllm", None, "engine-version-missing", "info"),
        ("vllm", "0.34.0", "engine-version-newer", "warning"),
        ("vllm", "0.6.6", "engine-version-older", "error"),
        ("sglang", "0.5.9", "other-engine", "warning"),
        ("tensorrt-llm", None, "other-engine", "warning"),
    ],
)
def test_what_is_said_of_it(engine: str, version: str | None, code: str, severity: str) -> None:
    (finding,) = version_findings(engine, version)
    assert (finding.code, finding.severity) == (code, severity)


def test_nothing_is_said_of_a_known_one() -> None:
    assert version_findings("vllm", "0.33.0") == version_findings("vllm", "0.8.5.post1") == []
    assert wider_for("vllm") == 1
    assert wider_for("sglang") >= 1.5


@pytest.mark.parametrize(
    ("engine", "version", "ahead"),
    [("vllm", None, True), ("vllm", "0.13.9", False), ("vllm", "0.14.0", True), ("sglang", "0.5.9", True)],
)
def test_servers_before_0_14_do_not_form_a_batch_ahead_by_themselves(
    engine: str, version: str | None, ahead: bool, tmp_path: Path
) -> None:
    assert schedules_ahead(engine, version) is ahead
    required = {"model": "m", "tensor_parallel": 1, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    required |= {"block_size": 16, "num_gpu_blocks": 10, "max_model_len": 100, "engine": engine}
    files = {"exp-config.yaml": required | ({"engine_version": version} if version else {})}
    server, _ = resolve_server(tmp_path, files, {}, ServerOverrides())
    assert server.async_scheduling is ahead
    for told in (True, False):
        server, _ = resolve_server(tmp_path, files, {}, ServerOverrides(async_scheduling=told))
        assert server.async_scheduling is told
    later, _ = resolve_server(tmp_path, files, {}, ServerOverrides(engine="vllm", engine_version="0.12.0"))
    assert not later.async_scheduling
