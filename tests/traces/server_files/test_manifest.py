"""Compose files and manifests: the container that serves, and what it is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.traces.server_files import manifest
from roofml.util.errors import InputError

POD = """
apiVersion: apps/v1
kind: Deployment
spec:
  replicas: {replicas}
  template:
    spec:
      containers:
      - name: vllm
        image: vllm/vllm-openai:v0.11.0
        command: [python3, -m, vllm.entrypoints.openai.api_server]
        args: ["--model=$(MODEL)", --max-num-seqs, "128", --enforce-eager]
        env:
        - {{name: MODEL, value: acme/Model-7B}}
        - {{name: TOKEN, valueFrom: {{secretKeyRef: {{key: a, name: b}}}}}}
{env}
{where}
---
apiVersion: v1
kind: Service
spec: {{ports: [{{port: 8000}}]}}
"""
SELECTOR = "      nodeSelector: {cloud.google.com/gke-accelerator: nvidia-h100-80gb}"
AFFINITY = """      affinity: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [
        {key: nvidia.com/gpu.product, operator: In, values: [NVIDIA-L40S]}]}]}}}"""


def facts(folder: Path, text: str) -> tuple[dict[str, object], list[str], str | None]:
    path = folder / "server.yaml"
    path.write_text(text)
    assert manifest.detect(path)
    said = manifest.facts(path)
    return dict(said.facts), [finding.code for finding in said.findings], said.refused


def pod(replicas: int = 1, env: str = "", where: str = SELECTOR) -> str:
    return POD.format(replicas=replicas, env=env, where=where)


def compose(command: str, more: str = "", image: str = "vllm/vllm-openai:v0.10.0") -> str:
    return f"services:\n  server:\n    image: {image}\n{more}    command: {command}\n"


ANCHORED = """x-all: &all
  image: vllm/vllm-openai:v0.10.0
services:
  server:
    <<: *all
    command: --model a/b
"""


def test_a_deployment_is_read_with_its_environment_and_node(tmp_path: Path) -> None:
    assert facts(tmp_path, pod()) == (
        {
            "engine": "vllm",
            "engine_version": "0.11.0",
            "model": "acme/Model-7B",
            "max_num_seqs": 128,
            "enforce_eager": True,
            "tensor_parallel": 1,
            "gpu": "nvidia-h100-80gb",
        },
        [],
        None,
    )


def test_an_affinity_names_the_gpu_too(tmp_path: Path) -> None:
    assert facts(tmp_path, pod(where=AFFINITY))[0]["gpu"] == "NVIDIA-L40S"


def test_replicas_are_told(tmp_path: Path) -> None:
    assert facts(tmp_path, pod(replicas=3))[1] == ["several-replicas"]


def test_the_old_engine_is_refused(tmp_path: Path) -> None:
    refused = facts(tmp_path, pod(env='        - {name: VLLM_USE_V1, value: "0"}'))[2]
    assert refused is not None
    assert "VLLM_USE_V1=0" in refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (compose("--model a/b --tensor-parallel-size 2"), {"model": "a/b", "tensor_parallel": 2}),
        (compose("a/b --max-num-seqs 8"), {"model": "a/b", "max_num_seqs": 8}),
        (
            compose(">\n      ${M:-a/b}\n      --dtype half\n      --max-num-seqs 8\n"),
            {"model": "a/b", "max_num_seqs": 8},
        ),
        (compose('["--model", "a/b", "--max-model-len", 4096]'), {"model": "a/b", "max_model_len": 4096}),
        (compose('["serve", "a/b", "-tp", "2"]'), {"model": "a/b", "tensor_parallel": 2}),
        (
            compose('[/bin/sh, -c, "vllm serve $$MODEL -tp $$N"]', "    environment: [MODEL=a/b, N=2]\n"),
            {"model": "a/b", "tensor_parallel": 2},
        ),
        (
            compose("--model a/b", "    environment: {MAX_NUM_SEQS: 9, TENSOR_PARALLEL_SIZE: 4}\n"),
            {"max_num_seqs": None, "tensor_parallel": 1},
        ),
        (compose("--model a/b -tp ${N}"), {"tensor_parallel": None}),
        (compose("--model a/b", image="nvcr.io/nvidia/vllm:25.09-py3"), {"engine_version": None}),
        (compose("--model a/b", image="lmcache/vllm-openai:v0.3.14"), {"engine_version": None}),
        (ANCHORED, {"engine_version": "0.10.0", "model": "a/b"}),
    ],
)
def test_compose_commands_in_all_their_forms(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    found = facts(tmp_path, text)[0]
    assert {name: found.get(name) for name in expected} == expected


def test_the_env_file_beside_fills_in(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# sizes\nexport N=4\n")
    assert facts(tmp_path, compose("--model a/b -tp ${N}"))[0]["tensor_parallel"] == 4


def test_two_servers_say_what_they_have_in_common(tmp_path: Path) -> None:
    text = (
        compose("--model a/b -tp 2") + "  other:\n    image: vllm/vllm-openai:v0.10.0\n    command: --model c/d -tp 2\n"
    )
    found, codes, _ = facts(tmp_path, text)
    assert found == {"tensor_parallel": 2, "engine": "vllm", "engine_version": "0.10.0"}
    assert codes == ["several-servers"]


BOMB = "services: {vllm: 1}\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {vllm: {image: other:1}}\n", "no container of vLLM in it"),
        ("services: {vllm: [\n", "not valid YAML"),
        ("services: {a: 1}\nvllm: *x\n", "line 2: alias 'x' of what is not there"),
        ("services: &x {vllm: *x}\n", "line 1: alias 'x' of what is not there, or not complete yet"),
        ("services: 1\nvllm: {<<: 1}\n", "line 2: a merge key (<<) of what is no mapping"),
        (BOMB, "aliases expand to more than 1000000 values"),
        ("services: 1\nvllm: !!python/object x\n", "line 2: tags are not accepted"),
        ("apiVersion: v1\nvllm: {{ .Values.image }}\n", "line 2"),
    ],
)
def test_what_is_no_manifest_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        manifest.facts(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["server: {type: vllm}\nload: {type: constant}\n", "kind: Pod\n", "services: {a: 1}\n"]
)
def test_other_yaml_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert not manifest.detect(path)
