"""Capacity: the knee is that of a brute-force scan, looser limits hold no less, and refusals say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run
from hypothesis import given
from hypothesis import strategies as st

from roofml.planning.capacity import NotMetError, capacity, knee
from roofml.planning.isotonic import crossing, rising
from roofml.planning.trials import Trials, targets_of
from roofml.util.errors import InputError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = replace(a_run().server, fresh=False)
CALIBRATION = a_calibration()
CALIBRATION = replace(CALIBRATION, deployment=CALIBRATION.deployment.serving(SERVER))
OPEN = "poisson:rate=1,input=uniform(100,700),output=60"


def trials(load: str, *slos: str, **server: int) -> Trials:
    workload = parse_spec(load)
    return Trials(CALIBRATION, workload, replace(SERVER, **server), targets_of(workload, parse_slos(slos)))


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_a_rising_curve_rises_and_keeps_the_mean(values: list[float]) -> None:
    curve = rising(np.array(values))
    assert (np.diff(curve) >= -1e-9).all()
    assert curve.mean() == pytest.approx(np.mean(values), abs=1e-9)
    again = rising(curve)
    assert again == pytest.approx(curve, abs=1e-9)


def test_a_crossing_lies_where_the_curve_does() -> None:
    places = np.arange(5.0)
    assert crossing(places, np.array([-2.0, -1.0, 0.0, 1.0, 2.0])) == 2.0
    assert crossing(places, np.array([-2.0, 1.0, -1.0, 1.0, 2.0])) == pytest.approx(1.0)  # pooled to 0 at 1
    assert crossing(places, np.full(5, -1.0)) is None
    assert crossing(places, np.ones(5)) == 0.0


@pytest.mark.parametrize("slos", [("p95 ttft < 300ms",), ("mean tpot < 15ms",), ("p99 e2e < 2s", "p50 ttft < 200ms")])
def test_the_knee_is_that_of_a_brute_force_scan(slos: tuple[str, ...]) -> None:
    found = capacity(trials(OPEN, *slos))
    scan = trials(OPEN, *slos)
    full = scan.flood()
    assert full == found.full
    made = [scan.at(float(rate)) for rate in found.level.value * np.exp(np.arange(-0.2, 0.2, 0.004)) if rate < full]
    brute, binding = knee(made, scan.targets, full)
    assert found.level.value == pytest.approx(brute, rel=0.01)
    assert str(found.binding) == str(binding)


def test_looser_limits_and_more_seats_hold_no_less() -> None:
    tight, loose = (capacity(trials(OPEN, f"p95 ttft < {limit}")).level.value for limit in ("200ms", "600ms"))
    assert tight < loose
    few, many = (capacity(trials(OPEN, "p95 ttft < 600ms", max_num_seqs=seats)).level.value for seats in (8, 64))
    assert few < many


def test_an_answer_has_an_interval_around_it_and_the_limit_that_binds() -> None:
    found = capacity(trials(OPEN, "p95 ttft < 300ms", "mean tpot < 10s"))
    ends = found.level.interval_90
    assert ends is not None
    assert ends[0] < found.level.value < ends[1]
    assert str(found.binding) == "p95 ttft < 300ms"
    assert found.at_knee.level <= found.level.value


def test_a_loose_limit_is_ended_by_a_full_server() -> None:
    found = capacity(trials(OPEN, "mean tpot < 100s"))
    assert found.binding is None
    assert found.level.value == pytest.approx(found.full)


def test_slos_that_no_load_meets_are_refused_and_the_binding_one_named() -> None:
    with pytest.raises(NotMetError, match=r"mean tpot < 1ms: no load meets it: requests .* come to [0-9.]+ ms"):
        capacity(trials(OPEN, "p95 ttft < 10s", "mean tpot < 1ms"))
    with pytest.raises(InputError, match="no SLO"):
        trials(OPEN)


def test_clients_are_a_whole_number_and_one_more_breaks_an_slo() -> None:
    loop = "closed:concurrency=1,input=uniform(100,700),output=60"
    asked = trials(loop, "mean tpot < 15ms")
    found = capacity(asked)
    assert found.level.value == int(found.level.value)
    assert asked.at(found.level.value).worst < 0.01
    assert asked.at(found.level.value + max(2, found.level.value // 20)).worst > 0
    assert capacity(trials(loop, "mean tpot < 99s", max_num_seqs=8)).unbounded


def test_each_class_has_its_own_limit(tmp_path: object) -> None:
    from pathlib import Path

    from roofml.workloads.mixture import read_mixture

    path = Path(str(tmp_path)) / "load.yaml"
    path.write_text(
        "arrivals: {kind: poisson, rate: 1}\n"
        "classes:\n"
        "  - {name: short, input: 100, output: 40, slo: [p95 e2e < 1s]}\n"
        "  - {name: long, input: 900, output: 40}\n"
    )
    workload = read_mixture(path)
    targets = targets_of(workload, ())
    assert [str(target) for target in targets] == ["short: p95 e2e < 1s"]
    found = capacity(Trials(CALIBRATION, workload, SERVER, targets))
    everybody = capacity(
        Trials(CALIBRATION, workload, SERVER, targets_of(parse_spec(OPEN), parse_slos(["p95 e2e < 1s"])))
    )
    assert found.level.value > everybody.level.value  # long prompts take longer than short ones, and need not be quick


@pytest.mark.slow
def test_more_rate_does_not_lower_ttft_beyond_its_noise() -> None:
    """Without prefix caching, over 20 seeds with common random numbers."""
    server = replace(SERVER, prefix_caching=False)
    workload = parse_spec(OPEN)
    rates = (4.0, 6.0, 8.0, 10.0)
    means = np.array(
        [
            [np.mean(CALIBRATION.replay(workload.at(rate).load(400, seed).run(server)).ttft_us) for rate in rates]
            for seed in range(20)
        ]
    )
    steps = np.diff(means, axis=1)
    assert (steps.mean(axis=0) > -steps.std(axis=0, ddof=1) / np.sqrt(20)).all()
