"""One-line loads and their YAML: what each field says, and the message for each that says nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from roofml.util.errors import InputError
from roofml.workloads.arrivals import Closed, Open
from roofml.workloads.mixture import read_mixture
from roofml.workloads.read import read_load, read_workload
from roofml.workloads.slo import parse_slo, parse_slos
from roofml.workloads.spec import parse_spec

LENGTHS = "input=1024,output=256"


def test_a_line_says_arrivals_and_requests() -> None:
    read = parse_spec("gamma:rate=8,burstiness=0.5,input=lognormal(1024,0.5),output=uniform(100,900),shared_prefix=512")
    assert isinstance(read.pattern, Open)
    assert (read.pattern.rate, read.pattern.burstiness) == (8.0, 0.5)
    (only,) = read.classes
    assert (str(only.input), str(only.output), only.shared_prefix) == ("lognormal(1024,0.5)", "uniform(100,900)", 512)
    assert read.requests is None


def test_a_closed_loop_has_clients_who_think() -> None:
    read = parse_spec(f"closed:concurrency=64,think=exponential(2),{LENGTHS},requests=640")
    assert isinstance(read.pattern, Closed)
    assert (read.pattern.clients, str(read.pattern.pause_s), read.requests) == (64, "exponential(2)", 640)


def test_stages_are_as_long_as_they_say() -> None:
    read = parse_spec(f"constant:rate=stages(2x60,8x30),{LENGTHS}")
    load = read.load()
    assert read.requests == len(load) == 360
    assert math.isclose(read.level, 4.0)
    seconds = load.arrival_us / 1e6
    assert np.sum(seconds < 60) == 120
    assert seconds[-1] <= 90


BAD = {
    f"poisson:rate=x,{LENGTHS}": "rate 'x': expected requests a second above 0, up to 1e+06",
    f"poisson:rate=0,{LENGTHS}": "rate '0': expected requests a second above 0",
    f"poisson:rate=1e9,{LENGTHS}": "rate '1e9': expected requests a second above 0, up to 1e+06",
    f"poisson:rate=nan,{LENGTHS}": "rate 'nan'",
    f"gamma:rate=1,burstiness=-1,{LENGTHS}": "burstiness '-1': expected a number above 0",
    f"gamma:rate=1,{LENGTHS}": "burstiness missing, expected gamma:rate=8,burstiness=0.5,input=1024,output=256",
    f"poisson:rate=stages(2x60,8),{LENGTHS}": "rate: '8': expected RATExSECONDS",
    f"poisson:rate=stages(2x0),{LENGTHS}": "rate '0': expected seconds above 0",
    f"poisson:rate=stages(1e6x86400),{LENGTHS}": "requests in all stages, expected 1 to",
    f"closed:concurrency=0,{LENGTHS}": "concurrency '0': expected a whole number from 1 to 100000",
    f"closed:concurrency=1.5,{LENGTHS}": "concurrency '1.5': expected a whole number",
    f"closed:concurrency=8,think=-1,{LENGTHS}": "think '-1': expected seconds from 0 to 86400",
    f"closed:rate=8,{LENGTHS}": "'rate': not known of closed, expected one of concurrency",
    "poisson:rate=8,input=0,output=2": "input '0': expected tokens from 1 to 1e+07",
    "poisson:rate=8,input=long,output=2": "input 'long': expected tokens from 1 to 1e+07, or uniform(LOW,HIGH)",
    "poisson:rate=8,input=uniform(9,2),output=2": "input 'uniform(9,2)': expected the smaller end first",
    "poisson:rate=8,input=uniform(9),output=2": "uniform takes 2 numbers",
    "poisson:rate=8,input=uniform(9,x),output=2": "uniform takes 2 numbers",
    "poisson:rate=8,input=normal(9,2),output=2": "input 'normal(9,2)': expected tokens, or uniform",
    "poisson:rate=8,input=lognormal(100,9),output=2": "expected a standard deviation of the logarithm from 0 to 3",
    "poisson:rate=8,input=exponential(0),output=2": "expected tokens from 1 to 1e+07",
    "poisson:rate=8,input=2,output=1e9": "output '1e9': expected tokens from 1 to 1e+07",
    f"poisson:rate=8,{LENGTHS},shared_prefix=2000": "shared_prefix 2000: no prompt is that long, expected at most 1024",
    f"poisson:rate=8,{LENGTHS},shared_prefix=-1": "shared_prefix '-1': expected a whole number from 0",
    f"poisson:rate=8,{LENGTHS},groups=3": "groups 3: expected a shared_prefix for them to differ in",
    f"poisson:rate=8,{LENGTHS},shared_prefix=9,groups=0": "groups '0': expected a whole number from 1",
    f"poisson:rate=8,{LENGTHS},requests=0": "requests '0': expected a whole number from 1",
    f"poisson:rate=8,rate=9,{LENGTHS}": "rate is there twice",
    f"poisson:rate=8,{LENGTHS},sead=1": "'sead': not known of poisson, expected one of rate, input, output",
    f"poisson:rate,{LENGTHS}": "'rate': expected NAME=VALUE",
    "poisson:rate=8,input=uniform(1,output=2": "expected NAME=VALUE",
    "poisson:": "rate, input, output missing, expected poisson:rate=8,input=1024,output=256",
    "poison:rate=8": "'poison': expected one of poisson, gamma, constant, closed, and a colon",
    "nowhere.csv": "no such file or folder; expected a run, a workload file",
}


@pytest.mark.parametrize("text", BAD)
def test_a_field_that_says_nothing_is_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_load(text)
    assert BAD[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_rate_concurrency_and_requests_of_the_caller_come_first() -> None:
    line = f"poisson:rate=8,{LENGTHS}"
    assert read_workload(line, rate=2.0).workload.level == 2.0
    assert read_workload(line, concurrency=4).workload.closed
    assert read_workload(line, requests=7).workload.requests == len(read_load(line, requests=7)) == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "--rate 0: expected requests a second above 0"),
        ({"rate": math.nan}, "--rate nan"),
        ({"concurrency": 0}, "--concurrency 0: expected clients from 1"),
        ({"requests": 0}, "--requests 0: expected from 1"),
        ({"rate": 1.0, "concurrency": 2}, "--rate and --concurrency"),
    ],
)
def test_what_the_caller_says_is_checked(given: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_workload(f"poisson:rate=8,{LENGTHS}", **given)  # pyright: ignore[reportArgumentType]


def test_sessions_begin_at_a_rate() -> None:
    with pytest.raises(InputError, match="is of sessions, which begin at a rate"):
        read_workload(f"poisson:rate=8,{LENGTHS},turns=3", concurrency=2)


def test_a_closed_loop_has_no_rate() -> None:
    with pytest.raises(InputError, match="closed loop"):
        read_workload(f"closed:concurrency=8,{LENGTHS}", rate=2.0)


SLOS = {
    "p95 ttft": "expected an SLO such as 'p95 ttft < 500ms'",
    "p95 ttft < 500": "expected an SLO such as",
    "p95 ttft > 500ms": "expected an SLO such as",
    "p94 ttft < 500ms": "'p94': expected one of mean, p50, p90, p95, p99",
    "p95 latency < 500ms": "'latency': expected one of ttft, tpot, itl, e2e",
    "p95 ttft < 0ms": "'0': expected a time above 0",
    "p95 ttft < 1.2.3s": "'1.2.3': expected a time above 0",
}


@pytest.mark.parametrize("text", SLOS)
def test_an_slo_that_says_nothing_is_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_slo(text)
    assert SLOS[text] in str(error.value)


def test_slos_are_read_as_people_write_them() -> None:
    one, other = parse_slos(["P95 TTFT<500ms", "mean e2e <= 2.5 s"])
    assert (one.metric, one.limit_us, str(one)) == ("ttft_p95", 5e5, "p95 ttft < 500ms")
    assert (other.metric, other.limit_us, str(other)) == ("e2e_mean", 2.5e6, "mean e2e < 2.5s")
    with pytest.raises(InputError, match="p95 ttft has a limit already"):
        parse_slos(["p95 ttft < 500ms", "p95 ttft < 400ms"])


MIXTURE = """
arrivals: {kind: poisson, rate: 8}
classes:
  - name: chat
    share: 3
    input: lognormal(800,0.6)
    output: 200
    shared_prefix: 512
    groups: 2
    slo: [p95 ttft < 500ms]
  - {name: summary, input: "uniform(4000,8000)", output: 400}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "load.yaml"
    path.write_text(text)
    return path


def test_classes_have_their_share_and_their_own_slos(tmp_path: Path) -> None:
    read = read_mixture(written(tmp_path, MIXTURE))
    assert [(each.name, each.share, len(each.slos)) for each in read.classes] == [("chat", 3.0, 1), ("summary", 1.0, 0)]
    load = read.load(4000, seed=1)
    assert np.mean(load.of_class == 0) == pytest.approx(0.75, abs=0.03)  # 4 standard deviations
    assert load.prompt_tokens[load.of_class == 1].min() >= 4000
    assert set(np.unique(load.prefix_group)) == {-1, 0, 1}
    assert (load.prefix_group[load.of_class == 1] == -1).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: poisson", "kind: burst", "arrivals.kind"),
        ("rate: 8", "rate: -8", "arrivals: rate '-8': expected requests a second"),
        (", rate: 8", "", "arrivals.rate is missing, which poisson needs"),
        ("rate: 8", "rate: 8, think: 3", "arrivals.think: not known of poisson"),
        ("share: 3", "share: 3\n    turns: 3", "shared_prefix 512 beside turns"),
        ("output: 400", "output: 400, turns: 3", "turns beside a shared_prefix"),
        ("output: 400", "output: 400, think: 3", "classes.summary: think '3': expected turns beside it"),
        ("share: 3", "share: 0", "classes.0.share"),
        ("output: 200", "output: [2]", "classes.0.output"),
        ("output: 200", "output: few", "classes.chat: output 'few': expected tokens"),
        ("groups: 2", "groups: 0", "classes.0.groups"),
        ("shared_prefix: 512", "shared_prefix: a", "classes.0.shared_prefix"),
        ("p95 ttft < 500ms", "p95 tttt < 500ms", "classes.chat.slo 'p95 tttt < 500ms': 'tttt'"),
        ("name: summary", "name: chat", "a name stands twice"),
        ("name: summary", "title: summary", "classes.1"),
        ("arrivals", "arrival", "arrivals"),
    ],
)
def test_a_field_of_the_file_that_says_nothing_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MIXTURE
    path = written(tmp_path, MIXTURE.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_load(str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
