"""A configuration of llm-d-inference-sim: its schema, its form, and what the file says that the form loses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import read_yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from roofml.export.closed_loop import ClosedLoop, closed_loop, ladder
from roofml.export.exported import Loss
from roofml.export.llm_d_sim import SimLatencies, duration, export_llm_d_sim, fit_latencies, slept_us, under_load
from roofml.export.subject import Subject, read_subject
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)us")


def in_us(text: str) -> float:
    found = GO_DURATION.fullmatch(text)
    assert found, text
    return float(found[1])


class Latencies(BaseModel):
    """`LatenciesConfig` and `validate` of llm-d-inference-sim, pkg/common/config.go (2026)."""

    model_config = ConfigDict(extra="forbid")
    prefill_overhead: float = Field(alias="prefill-overhead", ge=0)
    prefill_time_per_token: float = Field(alias="prefill-time-per-token", ge=0)
    prefill_time_std_dev: float = Field(0.0, alias="prefill-time-std-dev", ge=0)
    inter_token_latency: float = Field(alias="inter-token-latency", ge=0)
    inter_token_latency_std_dev: float = Field(0.0, alias="inter-token-latency-std-dev", ge=0)
    kv_cache_transfer_time_per_token: float = Field(0.0, alias="kv-cache-transfer-time-per-token", ge=0)
    time_factor_under_load: float = Field(alias="time-factor-under-load", ge=1)

    @field_validator("*", mode="before")
    @classmethod
    def durations(cls, value: Any) -> Any:
        return in_us(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def deviations(self) -> Latencies:
        assert self.inter_token_latency_std_dev <= 0.3 * self.inter_token_latency
        return self


class Cache(BaseModel):
    """`KVCacheConfig` there."""

    model_config = ConfigDict(extra="forbid")
    enable: bool = Field(alias="enable-kvcache")
    size: int = Field(alias="kv-cache-size", ge=1)
    block: int = Field(alias="block-size")


class Config(BaseModel):
    """What of `Configuration` there is written."""

    model_config = ConfigDict(extra="forbid")
    engine: str = Field(pattern="vllm")
    model: str = Field(min_length=1)
    mode: str = Field(pattern="random|echo")
    seats: int = Field(alias="max-num-seqs", ge=1)
    length: int = Field(alias="max-model-len", ge=1)
    calculator: str = Field(alias="latency-calculator", pattern="per-token")
    latencies: Latencies
    kvcache: Cache | None = None


@pytest.fixture
def subject(coefficients: Callable[..., Path]) -> Subject:
    return read_subject([coefficients()], ServerOverrides(max_num_seqs=32), (300, 60))


def loops_of(true: SimLatencies, most: int) -> list[ClosedLoop]:
    """What a server whose latencies have this form would take, before anything is cut to milliseconds."""
    loops = []
    for clients in ladder(most):
        prompts = np.arange(100, 900, 10)
        factor = float(under_load(true.load_factor, np.array([float(clients)]), true.seats)[0])
        ttft: Any = factor * (true.prefill_overhead_us + prompts * true.prefill_per_token_us)
        loops.append(ClosedLoop(clients, prompts, ttft, np.full(len(prompts), factor * true.inter_token_us), 0.0))
    return loops


def test_constants_of_the_form_are_found_again() -> None:
    true = SimLatencies(30_000_000.0, 25_000.0, 1_200_000.0, 3.5, 0.0, 0.0, 64)
    found = fit_latencies(loops_of(true, 64), 64)
    for name in ("prefill_overhead_us", "prefill_per_token_us", "inter_token_us", "load_factor"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=2e-3)


@pytest.mark.parametrize("seats", [1, 2, 64])
def test_a_server_of_any_number_of_seats_has_a_configuration(seats: int) -> None:
    true = SimLatencies(30_000.0, 25.0, 9_000.0, 1.0, 0.0, 0.0, seats)
    found = fit_latencies(loops_of(true, seats), seats)
    assert found.load_factor >= 1
    assert found.itl_us(np.array([1.0]))[0] == pytest.approx(9000, abs=1000)


def test_what_is_slept_is_whole_milliseconds_and_less_where_it_is_random() -> None:
    assert slept_us(np.array([7300.0, 999.0]), 0.0).tolist() == [7000.0, 0.0]
    assert slept_us(np.array([7300.0]), 2000.0).tolist() == [6500.0]
    random = np.random.default_rng(0)  # RandomNormDuration: whole milliseconds of mean, deviation and value
    drawn = np.trunc(np.clip(random.normal(7, 2, 200_000), 0.3 * 7, 1.7 * 7))
    assert drawn.mean() * 1e3 == pytest.approx(slept_us(np.array([7300.0]), 2000.0)[0], rel=0.01)


def test_the_file_is_one_that_the_simulator_takes(subject: Subject) -> None:
    path = Path("sim.yaml")
    exported = export_llm_d_sim(subject, path, link_gbs=50.0)
    config = Config.model_validate(read_yaml(str(exported.files[path])))
    assert (config.model, config.seats, config.length) == ("meta-llama/Llama-2-7b-hf", 32, 4096)
    assert config.kvcache is not None
    assert (config.kvcache.size, config.kvcache.block) == (7462, 16)
    # 2 tensors · 32 layers · 32 heads · 128 · 2 bytes over 50 GB/s
    assert config.latencies.kv_cache_transfer_time_per_token == pytest.approx(2 * 32 * 32 * 128 * 2 / 50e3, rel=1e-3)


def test_what_the_file_says_of_itself_is_what_its_constants_give(subject: Subject) -> None:
    path = Path("sim.yaml")
    text = str(export_llm_d_sim(subject, path).files[path])
    read = Config.model_validate(read_yaml(text)).latencies
    again = SimLatencies(
        read.prefill_overhead,
        read.prefill_time_per_token,
        read.inter_token_latency,
        read.time_factor_under_load,
        read.prefill_time_std_dev,
        read.inter_token_latency_std_dev,
        32,
    )
    loops = [closed_loop(subject, clients) for clients in ladder(subject.most_at_once)]
    itl = again.itl_us(np.array([float(loop.clients) for loop in loops]))
    loss = Loss.of("ITL", itl, np.array([loop.mean_tpot_us for loop in loops]))
    assert f"# {loss.sentence}" in text.splitlines()
    assert loss.median_pct < 15


def test_a_block_size_that_it_does_not_know_is_left_out(subject: Subject) -> None:
    path = Path("sim.yaml")
    other = replace(subject, server=replace(subject.server, block_size=24, num_gpu_blocks=4000))
    assert "kvcache" not in read_yaml(str(export_llm_d_sim(other, path).files[path]))


@pytest.mark.parametrize("name", ["a: b", "x\nport: 1", "# c", "'", '"', "- a", "{a}", "\u202e", "null", "1e3"])
def test_a_model_of_any_name_is_one_value(subject: Subject, name: str) -> None:
    path = Path("sim.yaml")
    deployment = replace(subject.deployment, hf_repo=name)
    named = replace(subject, calibration=replace(subject.calibration, deployment=deployment))
    document = read_yaml(str(export_llm_d_sim(named, path).files[path]))
    assert document["model"] == name
    assert "port" not in document


def test_a_link_without_bandwidth_is_refused(subject: Subject) -> None:
    for bandwidth in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--kv-link"):
            export_llm_d_sim(subject, Path("sim.yaml"), link_gbs=bandwidth)


def test_durations_are_go_s() -> None:
    assert [duration(us) for us in (0.0, 12.0, 12.3456, 1e6, 30.5)] == [
        "0us",
        "12us",
        "12.346us",
        "1000000us",
        "30.5us",
    ]
