"""A few random cases of every target of `benchmarks/fuzz.py`, always the same ones, and what judges them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.answers import Situation, carry_out
from benchmarks.fuzzing.campaign import stop_hangs, watched
from benchmarks.fuzzing.commands import COMMANDS, FITS
from benchmarks.fuzzing.readers import TARGETS
from benchmarks.fuzzing.target import Failure, NonsenseError, Recipe, Target, controls_in, outcome, smaller
from roofml.util.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SEEDS = st.integers(0, 2**32 - 1)
RECIPES = st.builds(Recipe, SEEDS, st.lists(SEEDS, max_size=6, unique=True).map(tuple))
FEW = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def exceptions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFML_TRACEBACK", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def check(target: Target, recipe: Recipe) -> None:
    result = outcome(target, recipe)
    assert not isinstance(result, Failure), f"{result.kind} {result.where}: {result.text}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(FEW, max_examples=25)
@given(recipe=RECIPES)
def test_a_reader_accepts_or_refuses_in_one_line(target: Target, recipe: Recipe) -> None:
    check(target, recipe)


@pytest.mark.parametrize("target", COMMANDS, ids=lambda target: target.name)
@settings(FEW, max_examples=6)
@given(recipe=RECIPES)
def test_a_command_ends_as_it_should_and_writes_only_where_it_was_told(target: Target, recipe: Recipe) -> None:
    check(target, recipe)


@pytest.mark.slow
@settings(FEW, max_examples=4)
@given(recipe=RECIPES)
def test_a_fit_that_ends_well_describes_its_run(recipe: Recipe) -> None:
    check(FITS[0], recipe)


@pytest.mark.parametrize("target", [*TARGETS, *COMMANDS], ids=lambda target: target.name)
def test_a_recipe_makes_the_same_case_again(target: Target) -> None:
    recipe = Recipe.of(3, target.name, 7)
    assert Recipe.of(3, target.name, 7) == recipe
    if target.name != "parquet":  # pyarrow writes as it likes
        assert target.files(target.case(recipe)) == target.files(target.case(recipe))


def planted(take: object) -> Target:
    return Target("planted", lambda _, steps: len(steps), take, lambda _: {}, most_s=0.2)  # pyright: ignore


def test_exceptions_and_nonsense_are_failures_and_refusals_are_not() -> None:
    def take(count: int) -> None:
        if count == 1:
            raise InputError("input: line 1: expected something")
        if count == 2:
            raise KeyError("x")
        if count == 3:
            raise NonsenseError("a step of -1 µs")
        if count == 4:
            raise InputError("two\nlines: here")

    results = [outcome(planted(take), Recipe(0, tuple(range(count)))) for count in range(5)]
    kinds = [result.kind if isinstance(result, Failure) else result for result in results]
    assert kinds == ["accepted", "refused", "crash", "nonsense", "nonsense"]


def test_a_failing_case_is_made_smaller() -> None:
    def make(_: Random, steps: tuple[Random, ...]) -> list[int]:
        return [step.getrandbits(32) % 7 for step in steps]

    def take(numbers: list[int]) -> None:
        assert 3 not in numbers

    target = replace(planted(take), make=make)
    recipe = next(
        recipe for recipe in (Recipe(0, tuple(range(i, i + 30))) for i in range(99)) if 3 in target.case(recipe)
    )
    failure = outcome(target, recipe)
    assert isinstance(failure, Failure)
    least, again = smaller(target, recipe, failure, outcome)
    assert len(least.steps) == 1
    assert again.kind == "crash"


@pytest.fixture
def hangs_end() -> Iterator[None]:
    before = signal.getsignal(signal.SIGPROF)
    stop_hangs()
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="timers of processor time are POSIX's")
@pytest.mark.usefixtures("hangs_end")
def test_a_hang_is_a_failure() -> None:
    def take(_: int) -> None:
        while True:
            pass

    result = watched(planted(take), Recipe(0, ()))
    assert isinstance(result, Failure)
    assert result.kind == "hang"


def test_what_a_terminal_would_obey_is_found() -> None:
    assert controls_in("plain text\n\ttab é") == ""
    assert controls_in("\x1b[31mred\u202e") == "\x1b\u202e"


def test_a_command_that_changes_its_input_is_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(arguments: list[str]) -> int:
        Path("run/trace.yaml").write_text("changed")
        return 0

    monkeypatch.setattr("benchmarks.fuzzing.answers.run", bad)
    with pytest.raises(NonsenseError, match="an input was changed"):
        carry_out(Situation(["doctor", "run"], {"run/trace.yaml": b"a: 1\n"}))


def test_the_benchmark_counts_its_cases_and_ends_with_0(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/fuzz.py", "--cases", "json=300,yaml=30", "--jobs", "2"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "failures")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 0: 330 cases in" in done.stdout
    assert not (tmp_path / "failures").exists()
