"""Command lines: what `vllm serve` was given, as far as a script says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.traces.server_files import command_line
from roofml.traces.server_files.images import version_of_image
from roofml.traces.server_files.shell import UNKNOWN, Script, joined, words_of


def said(text: str, folder: Path = Path("/nowhere")) -> dict[str, object]:
    return dict(command_line.said_of_script(text, folder / "serve.sh").facts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm serve a/b", {"model": "a/b", "tensor_parallel": 1}),
        ("vllm serve a/b -tp 4", {"model": "a/b", "tensor_parallel": 4}),
        ("vllm serve --model=a/b --tensor_parallel_size=2", {"model": "a/b", "tensor_parallel": 2}),
        ("vllm serve a/b --max-model-len 32k", {"max_model_len": 32_000}),
        ("vllm serve a/b --max-model-len 32K", {"max_model_len": 32_768}),
        ("vllm serve a/b --no-enable-prefix-caching", {"prefix_caching": False}),
        ("vllm serve a/b --enable-prefix-caching --max-num-seqs 8", {"prefix_caching": True, "max_num_seqs": 8}),
        ("vllm serve a/b --kv-cache-dtype fp8_e5m2", {"kv_dtype": "fp8"}),
        ("vllm serve a/b --max-num-seqs 8 > log 2>&1 &", {"max_num_seqs": 8}),
        ("vllm serve a/b --port 1 && bench --max-num-seqs 9", {"model": "a/b"}),
        ('vllm serve a/b --speculative-config \'{"method": "ngram"}\'', {"speculative_config": {"method": "ngram"}}),
        ("vllm serve a/b --scheduling-policy priority", {"policy": "priority"}),
        ("vllm serve a/b --cuda-graph-sizes 1 2 4 --port 1", {"cudagraph_capture_sizes": [1, 2, 4]}),
        (
            "vllm serve a/b --compilation-config '{\"cudagraph_capture_sizes\": [4, 1]}'",
            {"cudagraph_capture_sizes": [1, 4]},
        ),
        ("python3 -m vllm.entrypoints.openai.api_server --model a/b -pp 2", {"pipeline_parallel_size": 2}),
        ("docker run --gpus all vllm/vllm-openai:v0.10.2 --model a/b", {"model": "a/b", "engine_version": "0.10.2"}),
        ("pip install vllm==0.9.1\nvllm serve a/b", {"engine_version": "0.9.1"}),
        ("#SBATCH --gres=gpu:h100:4\nvllm serve a/b", {"gpu": "h100"}),
        ("M=a/b\nTP=2\nvllm serve $M -tp ${TP}", {"model": "a/b", "tensor_parallel": 2}),
        ('vllm serve "${M:-a/b}" -tp ${TP:-2}', {"model": "a/b", "tensor_parallel": 2}),
        (
            'A=(--model a/b \\\n  -tp 2)\nA+=(--max-num-seqs 3)\nvllm serve "${A[@]}"',
            {"tensor_parallel": 2, "max_num_seqs": 3},
        ),
        ('X=on; [ "$X" = off ] && P=1 || P=2\nvllm serve a/b -tp $P', {"tensor_parallel": 2}),
        ("X=on\nif [ $X = on ]; then P=1; else P=2; fi\nvllm serve a/b -tp $P", {"tensor_parallel": 1}),
        (
            "bash -c \"\n vllm serve 'a/b' --max-num-seqs 4 \\\n   -tp 2 > x\n\"",
            {"max_num_seqs": 4, "tensor_parallel": 2},
        ),
        ("vllm serve a/b \\\n  # --max-num-seqs 4\n", {"model": "a/b"}),
    ],
)
def test_arguments_are_read_as_the_shell_and_vllm_do(text: str, expected: dict[str, object]) -> None:
    found = said(text)
    assert {name: found.get(name) for name in expected} == expected
    assert found.get("model") == "a/b"


@pytest.mark.parametrize(
    ("text", "unsaid"),
    [
        ("vllm serve a/b -tp $TP", "tensor_parallel_size (TP)"),
        ("for tp in 1 2; do vllm serve a/b -tp $tp; done", "tensor_parallel_size (tp)"),
        ("if [ $X = on ]; then P=1; else P=2; fi\nvllm serve a/b -tp $P", "tensor_parallel_size (P)"),
        ("P=1\nif [ $X = on ]; then P=2; fi\nvllm serve a/b -tp $P", "tensor_parallel_size (P)"),
        ("P=1\ncase $X in\n a) P=2;;\nesac\nvllm serve a/b -tp $P", "tensor_parallel_size (P)"),
        ("vllm serve a/b -tp $(nvidia-smi -L | wc -l)", "tensor_parallel_size (another-command)"),
        ("vllm serve a/b $EXTRA", "arguments (EXTRA)"),
        ("vllm serve a/b -tp ${1}", "tensor_parallel_size (1)"),
    ],
)
def test_what_the_script_does_not_say_is_left_out_and_told(text: str, unsaid: str) -> None:
    found = command_line.said_of_script(text, Path("/nowhere/x.sh"))
    assert "tensor_parallel" not in found.facts
    told = [finding.summary for finding in found.findings if finding.code == "arguments-not-said"]
    assert told == [f"The command line leaves to its environment: {unsaid}."]


def test_several_servers_say_what_they_have_in_common() -> None:
    found = command_line.said_of_script("vllm serve a/b -tp 2\nvllm serve c/d -tp 2\n", Path("x.sh"))
    assert found.facts == {"tensor_parallel": 2}
    assert [finding.code for finding in found.findings] == ["several-servers"]


@pytest.mark.parametrize("text", ["VLLM_USE_V1=0 vllm serve a/b", "export VLLM_USE_V1=0\nvllm serve a/b"])
def test_the_old_engine_is_refused(text: str) -> None:
    refused = command_line.said_of_script(text, Path("x.sh")).refused
    assert refused is not None
    assert "VLLM_USE_V1=0" in refused


def test_a_config_beside_the_script_is_read_below_the_flags(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("max-num-seqs: 5\ntensor-parallel-size: 4\nenable-prefix-caching: false\n")
    found = said("vllm serve a/b --config config.yaml -tp 2", tmp_path)
    assert (found["max_num_seqs"], found["tensor_parallel"], found["prefix_caching"]) == (5, 2, False)
    assert "tensor_parallel" not in said("vllm serve a/b --config other.yaml", tmp_path)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.11.0", "0.11.0"),
        ("docker.io/vllm/vllm-openai:v0.10.1.1", "0.10.1"),
        ("vllm/vllm-openai:v0.14.0-cu130", "0.14.0"),
        ("vllm/vllm-openai:latest", None),
        ("vllm/vllm-openai:nightly-abc", None),
        ("nvcr.io/nvidia/vllm:25.09-py3", None),
        ("lmcache/vllm-openai:v0.3.14", None),
        ("rocm/vllm:rocm6.4.1_vllm_0.9.1_20250715", "0.9.1"),
    ],
)
def test_only_vllms_own_images_say_the_release(image: str, version: str | None) -> None:
    assert version_of_image(image) == version


@given(st.text(alphabet="$(){}[]\"'`;|&\\\n#= abAB01-", max_size=200))
def test_no_script_is_an_error(text: str) -> None:
    for line in Script().run(joined(text)):
        words_of(line)
    command_line.said_of_script(f"vllm serve a {text}", Path("/nowhere/x.sh"))


def test_a_variable_is_known_only_while_it_is() -> None:
    lines = list(Script().run("A=1\necho $A\nA=$B\necho $A"))
    assert lines[1] == "echo 1"
    assert lines[3] == f"echo {UNKNOWN}B{UNKNOWN}"
