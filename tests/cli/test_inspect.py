"""`roofml inspect`: a model on a GPU before anything was measured, and flags that no server takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commandline import fails, ok

from roofml.models.spec import config_path

LLAMA = ["inspect", "llama-2-7b-hf", "--gpu", "H100"]


def test_inspect_shows_what_it_says_as_json() -> None:
    found = ok(*LLAMA, "--json").document
    assert (found["model"], found["gpu"], found["tp"]) == ("llama-2-7b-hf", "H100", 1)
    assert str(found["kv"]["blocks"]) in ok(*LLAMA).out
    assert ok(*LLAMA, "--quiet").out == ""


def test_the_limits_that_are_given_are_those_that_are_used() -> None:
    kv = ok(*LLAMA, "--max-num-seqs", "1", "--max-num-batched-tokens", "1", "--json").document["kv"]
    assert (kv["max_num_seqs"], kv["max_num_batched_tokens"]) == (1, 1)


def test_limits_and_share_of_memory_are_those_of_the_version_that_is_said() -> None:
    """vLLM takes 92 % of the memory since 0.20, and more tokens a step on the largest GPUs since 0.28."""

    def kv(*flags: str) -> dict[str, int]:
        return ok("inspect", "llama-2-7b-hf", "--gpu", "B200", *flags, "--json").document["kv"]

    assert kv() == kv("--engine-version", "0.15.1") == kv("--gpu-memory-utilization", "0.9")
    later = kv("--engine-version", "0.20.0")
    assert later["usable_bytes"] / kv()["usable_bytes"] == pytest.approx(0.92 / 0.9)
    assert later["blocks"] > kv()["blocks"]
    newest = kv("--engine-version", "0.33.0")
    assert (later["max_num_batched_tokens"], newest["max_num_batched_tokens"]) == (8192, 16384)
    assert kv("--engine-version", "0.33.0", "--gpu-memory-utilization", "0.5")["usable_bytes"] < kv()["usable_bytes"]


def test_a_model_that_does_not_fit_is_a_problem_it_reports() -> None:
    found = ok("inspect", "llama-2-70b-hf", "--gpu", "H100", "--json").document
    assert found["kv"] is None
    assert any("minimum tensor parallel size: 2" in text for text in found["problems"])


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--max-num-seqs", "0", "max_num_seqs 0: expected between 1 and"),
        ("--max-num-seqs", "-3", "max_num_seqs -3: expected between 1 and"),
        ("--max-num-seqs", "500000000", "max_num_seqs 500000000: expected between 1 and"),
        ("--max-num-batched-tokens", "0", "max_num_batched_tokens 0: expected between 1 and"),
        ("--max-num-batched-tokens", "500000000", "max_num_batched_tokens 500000000: expected between 1 and"),
        ("--max-num-batched-tokens", "1" + "0" * 400, "max_num_batched_tokens 1000"),
        ("--gpu-memory-utilization", "nan", "gpu_memory_utilization nan: expected a number above 0, up to 1"),
        ("--gpu-memory-utilization", "0", "gpu_memory_utilization 0.0: expected a number above 0, up to 1"),
        ("--gpu-memory-utilization", "2", "gpu_memory_utilization 2.0: expected a number above 0, up to 1"),
        ("--gpu-memory-utilization", "inf", "gpu_memory_utilization inf: expected a number above 0, up to 1"),
        ("--tp", "0", "tensor parallel size 0: expected at least 1"),
        ("--kv-cache-dtype", "fp7", "--kv-cache-dtype 'fp7': expected one of bfloat16"),
        ("--plot", "/nowhere/x.png", "folder /nowhere does not exist"),
    ],
)
def test_inspect_refuses(flag: str, value: str, message: str) -> None:
    assert message in fails(*LLAMA, flag, value).err


@pytest.mark.parametrize("model", ["", "x" * 5000, "llama-9", "\x00", "a/" * 3000])
def test_a_model_that_is_not_there_is_one_line(model: str) -> None:
    assert fails("inspect", model, "--gpu", "H100").err.startswith("roofml: ")


def test_a_folders_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "mo\x1b[2Jdel\n"
    folder.mkdir()
    shutil.copy(config_path("llama-2-7b-hf"), folder / "config.json")
    said = ok("inspect", folder, "--gpu", "H100")
    assert "\x1b" not in said.out + said.err
    assert said.out.startswith("mo\\x1b[2Jdel (LlamaForCausalLM) on H100")
    found = json.loads(ok("inspect", folder, "--gpu", "H100", "--json").out)
    assert found["model"] == "mo\\x1b[2Jdel"
