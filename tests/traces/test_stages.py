"""Stages: which requests are of the lowest rate, by the generator's plan or by how they were sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitted import a_run
from runfolder import RunFolder, inference_perf, requests

from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.traces.stages import first_doubling, low_and_high, planned_stage
from roofml.util.arrays import Floats
from roofml.util.errors import InputError


def sends(*stages: tuple[float, int], pause_s: float = 0.0, seed: int = 0) -> Floats:
    """Random arrivals, µs, of (requests per second, requests) one stage after another."""
    random = np.random.default_rng(seed)
    gaps = [random.exponential(1e6 / rate, number) for rate, number in stages]
    for stage in gaps[1:]:
        stage[0] += 1e6 * pause_s
    return np.cumsum(np.concatenate(gaps))


def sent(arrival_us: Floats, **changes: object) -> Run:
    return replace(a_run(len(arrival_us)), arrival_us=arrival_us, **changes)


def test_a_plan_tells_every_request_its_stage_though_the_generator_pauses_between() -> None:
    plan = ((5.0, 60.0), (10.0, 60.0), (2.0, 60.0))
    stage = planned_stage(sends((5, 300), (10, 600), (2, 120), pause_s=7), plan)
    assert np.bincount(stage).tolist() == [300, 600, 120]
    assert np.bincount(planned_stage(sends((5, 300), (10, 200)), plan)).tolist() == [300, 200], "a run cut short"
    assert not len(planned_stage(sends((9, 300), (10, 600)), plan)), "another rate than was planned"
    assert not len(planned_stage(sends((9, 300)), ()))


def test_the_lowest_rate_is_learned_wherever_it_stands_and_all_above_it_judged() -> None:
    arrival = sends((10, 600), (5, 300), (20, 600), (5.8, 300))
    stage = np.repeat(np.arange(4), (600, 300, 600, 300))
    found = low_and_high(sent(arrival, stage=stage))
    assert found is not None
    low, high = found
    assert np.flatnonzero(np.bincount(stage, low)).tolist() == [1]
    assert np.flatnonzero(np.bincount(stage, high)).tolist() == [0, 2], "a stage of about the same rate is not above it"


@pytest.mark.parametrize("seed", range(5))
def test_without_a_plan_the_first_requests_are_those_before_the_rate_doubles(seed: int) -> None:
    change = first_doubling(sends((5, 1000), (10, 1500), seed=seed))
    assert change is not None
    assert abs(change - 1000) <= 25
    stair = first_doubling(sends((2, 500), (4, 800), (12, 1500), seed=seed))
    assert stair is not None
    assert abs(stair - 500) <= 25, "the first doubling, not the largest"


@pytest.mark.parametrize("seed", range(5))
def test_one_rate_has_no_stages(seed: int) -> None:
    assert first_doubling(sends((8, 3000), seed=seed)) is None
    assert first_doubling(sends((8, 1500), (11, 1500), seed=seed)) is None, "less than double"
    assert first_doubling(sends((8, 1500), (3, 1500), seed=seed)) is None, "falling"
    assert first_doubling(sends((8, 60), seed=seed)) is None, "too few to tell"
    assert first_doubling(np.zeros(500)) is None, "all at once"


def test_a_closed_loop_has_no_rate() -> None:
    arrival = sends((5, 300), (20, 600))
    assert low_and_high(sent(arrival)) is not None
    assert low_and_high(sent(arrival, clients=8)) is None


def staged(stages: list[dict[str, object]]) -> RunFolder:
    first, second = requests(160, rate=4.0), requests(160, rate=16.0)
    shift = int(str(first[-1]["send_time_us"])) + 3_000_000
    for each in second:
        each["request_id"] = int(str(each["request_id"])) + 160
        for name in ("arrival_time_us", "send_time_us", "first_chunk_time_us", "last_chunk_time_us"):
            each[name] = int(str(each[name])) + shift
    settings = inference_perf() | {"load": {"type": "poisson", "stages": stages}}
    del settings["data"]
    return RunFolder(rows=[*first, *second], inference_perf=settings)


def test_the_plan_of_inference_perf_is_read(tmp_path: Path) -> None:
    folder = staged([{"rate": 4, "duration": 40}, {"rate": 16, "duration": 20}]).write(tmp_path / "run")
    run = read_run(folder, gpu="H100")
    assert np.bincount(run.stage).tolist() == [160, 160]
    assert len(run.take(np.arange(len(run)) < 200).stage) == 200


@pytest.mark.parametrize("stage", [{"rate": 4}, {"duration": 40}, {"concurrency_level": 4, "duration": 40}])
def test_a_plan_that_does_not_say_how_many_requests_is_none(tmp_path: Path, stage: dict[str, object]) -> None:
    run = read_run(staged([stage, stage]).write(tmp_path / "run"), gpu="H100")
    assert not len(run.stage)
    found = low_and_high(run)
    assert found is not None
    assert abs(int(found[0].sum()) - 160) <= 10


def test_a_duration_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = staged([{"rate": 4, "duration": "long"}]).write(tmp_path / "run")
    with pytest.raises(InputError, match=r"inference-perf.yaml: load.stages\[0\].duration: 'long', expected seconds"):
        read_run(folder, gpu="H100")


def test_a_run_that_ends_before_its_plan_goes_on(tmp_path: Path) -> None:
    whole = staged([{"rate": 4, "duration": 40}, {"rate": 16, "duration": 10}]).write(tmp_path / "whole")
    cut = staged([{"rate": 4, "duration": 40}, {"rate": 16, "duration": 60}]).write(tmp_path / "cut")
    assert not read_run(whole, gpu="H100").goes_on
    assert read_run(cut, gpu="H100").goes_on
