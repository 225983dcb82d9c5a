"""Which folders are read as one thing, and what belongs to a deployment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from roofml.catalog.candidate_runs import Source
from roofml.catalog.discovery import MOST_FILES_OF_ONE, grouped
from roofml.catalog.key import Key, file_names, key_of
from roofml.catalog.making import grouped as by_deployment
from roofml.jobs.places import Entry
from roofml.traces.server import Server
from roofml.traces.settings import SchedulerSettings
from roofml.util.errors import InputError

SERVER = Server(
    model="meta-llama/Llama-2-7b-hf",
    tensor_parallel=1,
    max_num_seqs=128,
    max_num_batched_tokens=2048,
    block_size=16,
    num_gpu_blocks=7462,
    max_model_len=4096,
    gpu="H100",
)


def entries(*names: str, version: str = "1") -> list[Entry]:
    return [Entry(name, 1, version) for name in names]


def test_every_folder_with_files_is_a_candidate() -> None:
    found = grouped(entries("README.md", "a/trace.csv", "a/b/trace.csv", "c/d/e/bench.json"))
    assert {each.folder: [entry.name for entry in each.files] for each in found} == {
        ".": ["README.md"],
        "a": ["a/trace.csv"],
        "a/b": ["a/b/trace.csv"],
        "c/d/e": ["c/d/e/bench.json"],
    }
    assert {each.folder: each.whole for each in found} == {".": False, "a": False, "a/b": True, "c/d/e": True}


def test_logs_beside_a_run_belong_to_it_and_a_folder_of_logs_alone_does_not() -> None:
    found = grouped(entries("run/bench.json", "run/logs/vllm.log", "run/logs/metrics/1.txt", "logs/run2/bench.json"))
    assert {each.folder: len(each.files) for each in found} == {"run": 3, "logs/run2": 1}
    assert all(each.whole for each in found)


def test_a_change_of_a_file_changes_the_signature() -> None:
    one, other, unknown = (grouped(entries("run/a", version=version))[0].signature for version in ("1", "2", ""))
    assert one is not None
    assert one != other
    assert unknown is None


def test_a_folder_of_thousands_of_files_is_no_run() -> None:
    (many,) = grouped(entries(*(f"run/{i}" for i in range(MOST_FILES_OF_ONE + 1))))
    assert "files, expected at most" in many.problem


@pytest.mark.parametrize(
    "change",
    [
        {"tensor_parallel": 2},
        {"gpu": "A100"},
        {"model": "meta-llama/Llama-2-70b-hf"},
        {"engine_version": "0.19.0"},
        {"kv_dtype": "fp8"},
        {"async_scheduling": False},
        {"settings": SchedulerSettings(enforce_eager=True)},
        {"settings": SchedulerSettings(cudagraph_capture_sizes=(1, 2, 4))},
        {"settings": SchedulerSettings(performance_mode="throughput")},
    ],
)
def test_what_changes_a_step_makes_another_deployment(change: dict[str, Any]) -> None:
    one, other = key_of(SERVER), key_of(replace(SERVER, **change))
    assert one != other
    names = file_names([(one, "llama-2-7b-hf"), (other, "llama-2-7b-hf")])
    assert len(set(names.values())) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA H100 80GB HBM3"},
        {"model": "NousResearch/Llama-2-7b-hf"},
        {"max_num_seqs": 64},
        {"kv_dtype": "auto"},
        {"settings": SchedulerSettings(stream_interval=4)},
    ],
)
def test_what_does_not_makes_none(change: dict[str, Any]) -> None:
    assert key_of(SERVER) == key_of(replace(SERVER, **change))


def test_versions_are_what_they_say() -> None:
    assert key_of(replace(SERVER, engine_version="v0.15.1")) == key_of(replace(SERVER, engine_version="0.15.1"))
    with pytest.raises(InputError, match="gpu"):
        key_of(replace(SERVER, gpu=None))


def test_names_of_files_are_readable_and_apart() -> None:
    key = key_of(replace(SERVER, engine_version="0.15.1"))
    assert file_names([(key, "Llama-2-7b-hf")]) == {key: "llama-2-7b-hf-h100-tp1-0.15.1"}
    namesake = replace(key, config_sha256="0" * 64)
    names = file_names([(key, "x"), (namesake, "x")])
    assert len(set(names.values())) == 2
    assert Key.of_dict(key.to_dict()) == key


def run(name: str, identity: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "identity": identity,
        "content": identity,
        "key": key_of(SERVER).to_dict(),
        "model": "llama-2-7b-hf",
        "hf_repo": SERVER.model,
        "gpu_said": "H100",
        "engine_version_said": None,
        "kv_said": None,
        **changes,
    }


def source(folder: str) -> Source:
    return Source("/runs", folder, (), whole=True)


def test_runs_of_one_name_are_told_apart_and_copies_count_once() -> None:
    told = [(source("a"), run("run", "1")), (source("b"), run("run", "2")), (source("c"), run("run", "1"))]
    (group,), failures = by_deployment(told)
    assert [each["name"] for each in group.runs] == ["a/run", "b/run"]
    assert [(each.folder, "the same recording as a/run" in each.reason) for each in failures] == [("c", True)]


def test_one_model_by_two_names_is_one_deployment() -> None:
    told = [(source("a"), run("1", "1")), (source("b"), run("2", "2", hf_repo="NousResearch/Llama-2-7b-hf"))]
    (group,), _ = by_deployment(told)
    assert group.server["model"] == "NousResearch/Llama-2-7b-hf"
    assert len(group.runs) == 2
