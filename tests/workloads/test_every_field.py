"""Every field of a load and of an SLO, each with a value it cannot have and what is then said.

The fields are those that the readers themselves know: one without a case here fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from roofml.traces.formats.workload import CSV, JSON, Names
from roofml.util.errors import InputError
from roofml.workloads import mixture
from roofml.workloads.distribution import KINDS as DISTRIBUTIONS
from roofml.workloads.read import read_load
from roofml.workloads.slo import LATENCIES, STATISTICS, UNITS_US, parse_slo
from roofml.workloads.spec import KINDS, OF_KIND, OF_REQUESTS, OPTIONAL, OPTIONAL_OF_KIND

GOOD = {
    "rate": "8",
    "burstiness": "0.5",
    "concurrency": "4",
    "think": "1",
    "turns": "3",
    "input": "1024",
    "output": "256",
    "shared_prefix": "512",
    "groups": "2",
    "requests": "100",
}
FIELDS = [(kind, name) for kind in KINDS for name in (*OF_KIND[kind], *OPTIONAL_OF_KIND[kind], *OF_REQUESTS, *OPTIONAL)]
BAD: dict[str, dict[str, str]] = {
    "rate": {
        "fast": "rate 'fast': expected requests a second above 0, up to 1e+06",
        "-1": "rate '-1': expected requests a second above 0",
        "stages(2)": "rate: '2': expected RATExSECONDS, such as stages(2x60,8x120)",
        "stages(2x-1)": "rate '-1': expected seconds above 0",
    },
    "burstiness": {"0": "burstiness '0': expected a number above 0, up to 10000"},
    "concurrency": {
        "2.5": "concurrency '2.5': expected a whole number from 1 to 100000",
        "0": "concurrency '0': expected a whole number from 1",
    },
    "think": {"-1": "think '-1': expected seconds from 0 to 86400", "long": "think 'long': expected seconds"},
    "turns": {"0": "turns '0': expected requests from 1 to 1000", "few": "turns 'few': expected requests"},
    "input": {"0": "input '0': expected tokens from 1 to 1e+07", "long": "input 'long': expected tokens"},
    "output": {"0": "output '0': expected tokens from 1 to 1e+07", "long": "output 'long': expected tokens"},
    "shared_prefix": {
        "-1": "shared_prefix '-1': expected a whole number from 0",
        "9999": "shared_prefix 9999: no prompt is that long, expected at most 1024",
    },
    "groups": {"0": "groups '0': expected a whole number from 1"},
    "requests": {"0": "requests '0': expected a whole number from 1", "1e3": "requests '1e3': expected a whole number"},
}
BESIDE = {"think": "turns", "groups": "shared_prefix"}
"""Names that need another beside them, of open loads."""


def line(kind: str, name: str, value: str) -> str:
    names = dict.fromkeys((*OF_KIND[kind], *OF_REQUESTS))
    if name in BESIDE and BESIDE[name] in {*OPTIONAL, *OPTIONAL_OF_KIND[kind]}:
        names[BESIDE[name]] = None
    said = {each: GOOD[each] for each in names} | {name: value}
    return f"{kind}:{','.join(f'{key}={text}' for key, text in said.items())}"


def refused(load: str) -> str:
    with pytest.raises(InputError) as error:
        read_load(load)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_each_field_of_a_line(kind: str, name: str) -> None:
    read_load(line(kind, name, GOOD[name]))
    for value, message in BAD[name].items():
        said = refused(line(kind, name, value))
        assert said.startswith(f"load '{kind}:")
        assert message in said
    twice = f"{line(kind, name, GOOD[name])},{name}={GOOD[name]}"
    assert f"{name} is there twice" in refused(twice)
    empty = line(kind, name, "")
    assert f"'{name}=': expected NAME=VALUE" in refused(empty)


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_that_a_kind_needs(kind: str) -> None:
    needed = (*OF_KIND[kind], *OF_REQUESTS)
    for missing in needed:
        rest = ",".join(f"{name}={GOOD[name]}" for name in needed if name != missing)
        assert f"{missing} missing, expected {kind}:" in refused(f"{kind}:{rest}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_that_another_kind_has(kind: str) -> None:
    known = {name for of, name in FIELDS if of == kind}
    for name in {name for _, name in FIELDS} - known:
        said = refused(f"{line(kind, 'input', '1024')},{name}={GOOD[name]}")
        assert f"'{name}': not known of {kind}, expected one of " in said


DRAWN = {
    "uniform": {"uniform(5)": "uniform takes 2 numbers", "uniform(9,5)": "expected the smaller end first"},
    "lognormal": {
        "lognormal(100)": "lognormal takes 2 numbers",
        "lognormal(100,-1)": "expected a standard deviation of the logarithm from 0 to 3",
    },
    "exponential": {"exponential(1,2)": "exponential takes 1 number", "exponential(1e9)": "expected tokens from 1 to"},
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_each_distribution(kind: str) -> None:
    for value, message in DRAWN[kind].items():
        said = refused(f"poisson:rate=8,input={value},output=2")
        assert f"input '{value}'" in said
        assert message in said


YAML_LOAD: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate": 8},
    "classes": [
        {
            "name": "chat",
            "share": 3,
            "input": "lognormal(800,0.6)",
            "output": 200,
            "slo": ["p95 ttft < 500ms"],
        }
    ],
}
IN_FILE: dict[str, list[tuple[dict[str, Any], str]]] = {
    "arrivals": [({"arrivals": "fast"}, "arrivals: ")],
    "arrivals.kind": [({"kind": "burst"}, "arrivals.kind: ")],
    "arrivals.rate": [
        ({"rate": -8}, "arrivals: rate '-8': expected requests a second above 0"),
        ({"rate": [8]}, "arrivals.rate"),
    ],
    "arrivals.burstiness": [
        ({"kind": "gamma", "burstiness": 0}, "arrivals: burstiness '0': expected a number above 0"),
        ({"burstiness": 1}, "arrivals.burstiness: not known of poisson, expected rate"),
    ],
    "arrivals.concurrency": [
        ({"kind": "closed", "rate": None, "concurrency": 0}, "arrivals: concurrency '0': expected a whole number from"),
        ({"concurrency": 4}, "arrivals.concurrency: not known of poisson"),
    ],
    "arrivals.think": [
        ({"kind": "closed", "rate": None, "concurrency": 4, "think": -1}, "arrivals: think '-1': expected seconds"),
        ({"think": 1}, "arrivals.think: not known of poisson"),
    ],
    "classes": [({"classes": []}, "classes: "), ({"classes": {"name": "chat"}}, "classes: ")],
    "classes.name": [({"name": 3}, "classes.0.name: "), ({"name": ""}, "classes.0.name: ")],
    "classes.share": [({"share": 0}, "classes.0.share: "), ({"share": "most"}, "classes.0.share: ")],
    "classes.input": [
        ({"input": "long"}, "classes.chat: input 'long': expected tokens"),
        ({"input": None}, "classes.0.input"),
    ],
    "classes.output": [
        ({"output": 0}, "classes.chat: output '0': expected tokens from 1"),
        ({"output": [2]}, "classes.0.output"),
    ],
    "classes.shared_prefix": [
        ({"shared_prefix": -1}, "classes.0.shared_prefix: "),
        ({"shared_prefix": 512, "input": 100}, "classes.chat: shared_prefix 512: no prompt is that long"),
    ],
    "classes.groups": [
        ({"groups": 0}, "classes.0.groups: "),
        ({"groups": 3}, "classes.chat: groups 3: expected a shared_prefix"),
    ],
    "classes.turns": [({"turns": 0}, "classes.chat: turns '0': expected requests from 1")],
    "classes.think": [
        ({"turns": 2, "think": -1}, "classes.chat: think '-1': expected seconds"),
        ({"think": 1}, "classes.chat: think '1': expected turns beside it"),
    ],
    "classes.slo": [
        ({"slo": ["p94 ttft < 1s"]}, "classes.chat.slo 'p94 ttft < 1s': 'p94': expected one of mean"),
        ({"slo": "p95 ttft < 1s"}, "classes.0.slo"),
    ],
    "requests": [({"requests": 0}, "requests: "), ({"requests": "many"}, "requests: ")],
}


def fields_of(model: type[BaseModel], before: str = "") -> list[str]:
    """Every field of a file's schema, with those of its sections."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(f"{before}{name}")
        inside = [field.annotation, *get_args(field.annotation)]
        for each in inside:
            if isinstance(each, type) and issubclass(each, BaseModel):
                found += fields_of(each, f"{before}{name}.")
    return found


@pytest.mark.parametrize("name", fields_of(mixture._File))  # pyright: ignore[reportPrivateUsage]
def test_each_field_of_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "load.yaml"
    path.write_text(json.dumps(YAML_LOAD))  # which is YAML as well
    read_load(str(path))
    for changed, message in IN_FILE[name]:
        load = json.loads(json.dumps(YAML_LOAD))
        section = load["classes"][0] if name.startswith("classes.") else load
        section = load["arrivals"] if name.startswith("arrivals.") else section
        section.update(changed)
        path.write_text(json.dumps({key: value for key, value in load.items() if value is not None}))
        if name.startswith("arrivals."):
            load["arrivals"] = {key: value for key, value in section.items() if value is not None}
            path.write_text(json.dumps(load))
        said = refused(str(path))
        assert said.startswith(str(path))
        assert message in said


@pytest.mark.parametrize("section", ["", "arrivals", "classes"])
def test_no_other_field_in_a_file(tmp_path: Path, section: str) -> None:
    load = json.loads(json.dumps(YAML_LOAD))
    {"": load, "arrivals": load["arrivals"], "classes": load["classes"][0]}[section]["colour"] = 1
    path = tmp_path / "load.yaml"
    path.write_text(json.dumps(load))
    assert "colour" in refused(str(path))


COLUMNS = [("csv", kind, names) for kind, names in CSV.items()] + [
    ("json", kind, names) for kind, names in JSON.items()
]


def table(kind: str, names: Names, column: str | None = None, bad: object = "x") -> str:
    """Three requests in a file of a kind, with `bad` in a column of the second."""
    rows: list[dict[str, object]] = []
    for request in range(3):
        row: dict[str, object] = {names.prompt: 100, names.output: 10}
        if names.arrival is not None:
            row[names.arrival] = f"2024-05-01 10:00:0{request}" if not names.factor else request
        if request == 1 and column is not None:
            row[column] = bad
        rows.append(row)
    if kind == "json":
        return "".join(json.dumps(row) + "\n" for row in rows)
    return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n"


@pytest.mark.parametrize(("kind", "which", "names"), COLUMNS)
def test_each_column_of_a_workload_file(tmp_path: Path, kind: str, which: str, names: Names) -> None:
    del which
    path = tmp_path / "load.txt"
    path.write_text(table(kind, names))
    assert len(read_load(str(path))) == 3
    row = 3 if kind == "csv" else 2
    for column in filter(None, (names.prompt, names.output, names.arrival)):
        path.write_text(table(kind, names, column))
        said = refused(str(path))
        assert said.startswith(f"{path}: line {row}: {column} is 'x', expected ")
    for column in (names.prompt, names.output):
        path.write_text(table(kind, names, column, -3))
        assert f"line {row}: {column} is " in refused(str(path))


SAID_OF_SLOS = {
    "p94 ttft < 500ms": f"'p94': expected one of {', '.join(STATISTICS)}",
    "p95 latency < 500ms": f"'latency': expected one of {', '.join(LATENCIES)}",
    "p95 ttft > 500ms": "expected an SLO such as 'p95 ttft < 500ms'",
    "p95 ttft < fastms": "expected an SLO such as 'p95 ttft < 500ms'",
    "p95 ttft < 0ms": "'0': expected a time above 0",
    "p95 ttft < 1e99ms": "'1e99': expected a time above 0",
    "p95 ttft < 500us": "expected an SLO such as 'p95 ttft < 500ms'",
    "p95 ttft < 500": "expected an SLO such as 'p95 ttft < 500ms'",
    "p95 < 500ms": "expected an SLO such as 'p95 ttft < 500ms'",
    "ttft < 500ms": "expected an SLO such as 'p95 ttft < 500ms'",
    "": "expected an SLO such as 'p95 ttft < 500ms'",
}


@pytest.mark.parametrize("text", SAID_OF_SLOS)
def test_each_word_of_an_slo(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_slo(text)
    assert str(error.value).startswith(f"--slo '{text}': ")
    assert SAID_OF_SLOS[text] in str(error.value)


def test_each_word_that_an_slo_knows_is_read() -> None:
    for statistic in STATISTICS:
        for latency in LATENCIES:
            for unit in UNITS_US:
                read = parse_slo(f"{statistic} {latency} < 2{unit}")
                assert (read.statistic, read.latency, read.limit_us) == (statistic, latency, 2 * UNITS_US[unit])
