"""The leaderboard: the same bytes however it was computed, nothing learned from what is judged, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import fails, ok
from runfolder import MODEL, RunFolder, exp_config, header, requests

from roofml.jobs import cluster
from roofml.jobs.cluster import Wanted
from roofml.util.errors import InputError
from roofml.validation.leaderboard.board import board
from roofml.validation.leaderboard.cells import Inputs, cell, cells, digest, elsewhere, folds_of, load
from roofml.validation.leaderboard.making import Request
from roofml.validation.leaderboard.page import markdown, number, picture, signed

pytestmark = pytest.mark.slow

OTHER = "codellama/CodeLlama-34b-Instruct-hf"


def write(folder: Path, model: str, seed: int, tp: int = 1) -> Path:
    head, settings = header(), exp_config()
    for mapping in (head["server"], settings):
        mapping["model"] = model
    head["server"]["tensor_parallel"] = settings["tensor_parallelism"] = tp
    return RunFolder(rows=requests(150, seed=seed, output=60), header=head, exp_config=settings).write(folder)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("runs")
    runs = (
        write(folder / "first", MODEL, 1),
        write(folder / "second", MODEL, 2),
        write(folder / "other", OTHER, 3, tp=2),
    )
    return Inputs(runs, "H100")


@pytest.fixture(scope="module")
def found(inputs: Inputs) -> dict[tuple[str, str], dict[str, Any]]:
    """Cells computed in this process."""
    names = ("roofml", "naive-mean", "blackbox")
    return {("temporal", name): cell(inputs, "temporal", name) for name in names} | {
        (p, name): cell(inputs, p, name) for p in ("lomo", "lowo") for name in names[1:]
    }


def test_parts_of_a_fold_never_overlap_and_nothing_elsewhere_is_judged(inputs: Inputs) -> None:
    runs = load(inputs).runs
    for protocol in ("temporal", "lomo", "lowo"):
        folds = folds_of(protocol, runs)
        for fold in folds:
            for test in (*fold.test, *fold.validation):
                for other in (*fold.train, *elsewhere(protocol, fold, folds, runs)):
                    if other.run is test.run:
                        assert not np.any(other.requests & test.requests)
            model = fold.test[0].run.server.model
            assert all(p.run.server.model != model for p in elsewhere(protocol, fold, folds, runs))
            if protocol == "lomo":
                assert all(p.run.server.model != model for p in fold.train)


def test_the_test_part_of_a_run_is_its_last_fifth(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert [row["requests"] for row in found["temporal", "roofml"]["runs"]] == [30, 30, 30]
    assert [row["requests"] for row in found["lomo", "blackbox"]["runs"]] == [150, 150, 150]


def test_a_cell_is_the_same_from_another_process_and_from_disk(
    inputs: Inputs, found: dict[tuple[str, str], dict[str, Any]], tmp_path: Path
) -> None:
    seen: list[bool] = []
    selected = {"temporal": ["naive-mean"], "lowo": ["blackbox"]}
    first = cells(inputs, selected, tmp_path, Wanted(workers=2), lambda protocol, name, known: seen.append(known))
    again = cells(inputs, selected, tmp_path, Wanted(workers=2), lambda protocol, name, known: seen.append(known))
    assert seen == [False, False, True, True]
    for key, document in first.items():
        assert json.dumps(document) == json.dumps(again[key]) == json.dumps(json.loads(json.dumps(found[key])))


def test_without_dask_cells_are_computed_in_turn_and_a_scheduler_is_refused(
    inputs: Inputs, found: dict[tuple[str, str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    selected = {"temporal": ["naive-mean"], "lomo": ["blackbox"]}
    for key, document in cells(inputs, selected, tmp_path, Wanted(workers=2)).items():
        assert json.dumps(document) == json.dumps(json.loads(json.dumps(found[key])))
    refused = fails("leaderboard", *inputs.runs, "--gpu", "H100", "--scheduler", "tcp://127.0.0.1:1", "--quiet")
    assert "--scheduler needs Dask: `pip install 'roofml[cluster]'`" in refused.err


def test_the_digest_follows_data_and_seed(inputs: Inputs, tmp_path: Path) -> None:
    assert digest(inputs) == digest(inputs)
    assert digest(inputs) != digest(Inputs(inputs.runs, "H100", seed=1))
    assert digest(inputs) != digest(Inputs(inputs.runs[:2], "H100"))


@pytest.fixture(scope="module")
def of_one_name(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, Inputs]:
    """The same three runs: with names of their own, and two of them in folders of one name."""
    folder = tmp_path_factory.mktemp("of-one-name")
    places = [("first", "x/run"), ("second", "y/run"), ("other", "other")]
    models = [(MODEL, 1, 1), (MODEL, 2, 1), (OTHER, 3, 2)]
    distinct, alike = (
        tuple(write(folder / str(i) / names[i], *of) for names, of in zip(places, models, strict=True)) for i in (0, 1)
    )
    return Inputs(distinct, "H100"), Inputs(alike, "H100")


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        pytest.param("temporal", "roofml", marks=pytest.mark.exhaustive),
        ("temporal", "naive-mean"),
        pytest.param("lowo", "package-prior", marks=pytest.mark.exhaustive),
    ],
)
def test_two_runs_of_one_name_are_two_rows(of_one_name: tuple[Inputs, Inputs], protocol: str, name: str) -> None:
    distinct, alike = of_one_name
    assert [run.name for run in load(alike).runs] == ["x/run", "y/run", "other"]
    expected, found = cell(distinct, protocol, name), cell(alike, protocol, name)
    named = {"first": "x/run", "second": "y/run"}
    assert [row["run"] for row in found["runs"]] == [named.get(row["run"], row["run"]) for row in expected["runs"]]
    assert [{**row, "run": ""} for row in found["runs"]] == [{**row, "run": ""} for row in expected["runs"]]
    biases = [[list(fold["validation"].values()) for fold in one["folds"]] for one in (found, expected)]
    assert biases[0] == biases[1]


def test_cells_are_known_again_by_the_names_that_they_carry(inputs: Inputs, tmp_path: Path) -> None:
    """Folders of one name in other folders are called otherwise on the board."""
    first, second = (
        tuple(write(tmp_path / parent / name / "run", MODEL, seed) for name, seed in (("x", 1), ("y", 2)))
        for parent in ("p", "q")
    )
    renamed = tuple(run.parent.rename(run.parent.with_name(f"{run.parent.name}2")) / "run" for run in second)
    named = [[run.name for run in load(Inputs(runs, "H100")).runs] for runs in (first, renamed)]
    assert named == [["x/run", "y/run"], ["x2/run", "y2/run"]]
    assert digest(Inputs(first, "H100")) != digest(Inputs(renamed, "H100"))


def test_a_board_has_every_row_with_intervals_and_tests(
    inputs: Inputs, found: dict[tuple[str, str], dict[str, Any]]
) -> None:
    document = board(inputs, found)
    json.dumps(document, allow_nan=False)
    assert document["protocols"]["lowo"]["against_best_other"] == {}  # ours is not among them
    for protocol, ours in (("temporal", {"roofml"}), ("lomo", set[str]())):
        one = document["protocols"][protocol]
        assert {row["method"] for row in one["methods"]} == {"naive-mean", "blackbox"} | ours
        errors = [row["e2e"]["mean_abs_error_pct"] for row in one["methods"]]
        assert errors == sorted(errors)
        for row in one["methods"]:
            low, high = row["e2e"]["interval_95"]
            assert low <= row["e2e"]["mean_abs_error_pct"] <= high
        for test in one["against_best_other"].values():
            assert test["best_other"] in ("naive-mean", "blackbox")
            assert test["runs"]["p"] <= test["runs"]["p_holm"] <= 1
    page = markdown(document, "roofml leaderboard ...")
    assert "## Intervals" in page
    for row in document["protocols"]["temporal"]["methods"]:
        if row["kind"] == "ours":
            sums = [of["figures"] for name, of in row["intervals"].items() if name != "all"]
            assert row["intervals"]["all"]["figures"] == sum(sums)
        else:
            assert "intervals" not in row
    assert "| temporal | mean E2E |" in page
    assert page == markdown(json.loads(json.dumps(document)), "roofml leaderboard ...")
    for heading in ("temporal:", "lowo:", "lomo:", "The contract with a simulator", "The baselines"):
        assert heading in page
    pytest.importorskip("matplotlib")
    assert picture(document) == picture(document)


def test_the_command_writes_three_files_and_goes_on_where_it_was_stopped(inputs: Inputs, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    common = ["--gpu", "H100", "--protocol", "temporal", "--method", "naive-mean", "--method", "blackbox"]
    kept = tmp_path / "cells"
    where = ["--workers", 1, "--cells", kept]
    command = ["leaderboard", *inputs.runs, *common, *where, "-o", tmp_path / "board.md", "--quiet"]
    ok(*command)
    files = [tmp_path / f"board.{kind}" for kind in ("md", "json", "png")]
    before = [file.read_bytes() for file in files]
    min(kept.rglob("*.json")).unlink()  # as if it had been stopped before this one
    ok(*command)
    assert [file.read_bytes() for file in files] == before
    shown = ok(*command[:-3]).out
    assert "naive-mean" in shown
    assert "blackbox" in shown


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_another_shape(path: Path) -> None:
    path.write_text('{"cell": {"runs": []}, "sha256": ""}')


def with_other_numbers(path: Path) -> None:
    text = path.read_text()
    assert '"requests": 30' in text
    path.write_text(text.replace('"requests": 30', '"requests": 31'))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        of_another_shape,
        with_other_numbers,
        pytest.param(a_fifo, marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no FIFOs")),
        a_link_to_itself,
        lambda path: path.write_text(""),
        lambda path: path.write_text("not JSON"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"cell": NaN}'),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[" * 100_000),
    ],
)
def test_a_broken_cell_is_computed_again(
    inputs: Inputs, tmp_path: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object) -> dict[str, Any]:
        return {"µ": [0.1, 1e300, None], "runs": [{"requests": 30}] * 9}

    monkeypatch.setattr("roofml.validation.leaderboard.cells.cell", computed)
    known: list[bool] = []
    selected = {"temporal": ["naive-mean", "blackbox"]}
    first = cells(inputs, selected, tmp_path, Wanted())
    damage(min(tmp_path.rglob("*.json")))
    assert cells(inputs, selected, tmp_path, Wanted(), lambda _, __, cached: known.append(cached)) == first
    assert sorted(known) == [False, True]
    assert cells(inputs, selected, tmp_path, Wanted(), lambda _, __, cached: known.append(cached)) == first
    assert known[2:] == [True, True]


def test_a_folder_that_cannot_keep_cells_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep cells there"):
        cells(inputs, {"temporal": ["naive-mean"]}, tmp_path / "file" / "cells", Wanted())


def test_what_was_read_is_not_written_over(inputs: Inputs, tmp_path: Path) -> None:
    board_file = tmp_path / "board.md"
    board_file.symlink_to(inputs.runs[0] / "trace.csv")
    common = ["leaderboard", *inputs.runs, "--gpu", "H100", "--method", "naive-mean", "--cells", tmp_path / "cells"]
    load.cache_clear()  # as in a process of its own
    assert "is an input of this command" in fails(*common, "-o", board_file).err


def test_files_of_a_board_that_are_one_file_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "board.png").symlink_to(tmp_path / "board.md")
    assert "written beside it" in fails("leaderboard", *inputs.runs, "-o", tmp_path / "board.md").err


@pytest.mark.parametrize("name", ["runs", "two words", "$(touch owned)", "a'b", "`x`"])
def test_the_command_on_the_page_can_be_pasted(name: str) -> None:
    request = Request(
        runs=(Path(name) / "a", Path(name) / "b"), gpu="H100", steps=(Path(name),), protocols=("temporal",),
        predictors=("roofml",), seed=3, all_protocols=False,
    )  # fmt: skip
    line = request.command(Path(name) / "board.md")
    expected = ["roofml", "leaderboard", f"{name}/*", "--gpu", "H100", "--steps", name, "--protocol", "temporal"]
    assert shlex.split(line) == [*expected, "--method", "roofml", "--seed", "3", "-o", f"{name}/board.md"]
    assert "/* " in line, "the shell finds the runs"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "oracle"], "--method 'oracle': expected one of roofml,"),
        (["-o", "nowhere/board.md"], "nowhere does not exist"),
        (["-o", "board.json"], "expected a name that does not end in .json or .png"),
        (["--steps", "other.parquet"], "other.parquet: no such file"),
    ],
)
def test_bad_usage_is_one_line(inputs: Inputs, flags: list[str], message: str) -> None:
    assert message in fails("leaderboard", *inputs.runs, "--gpu", "H100", *flags).err


def test_protocols_that_the_runs_do_not_allow_are_refused(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="at least two models"):
        folds_of("lomo", load(Inputs(inputs.runs[:2], "H100")).runs)
    assert "at least two models" in fails("leaderboard", *inputs.runs[:2], "--gpu", "H100").err


def test_numbers_fit_their_cells() -> None:
    assert [number(x) for x in (0.123, 9.996, 12.34, 99.96, 1234.5, 1.5e6)] == [
        "0.12", "10.0", "12.3", "100", "1234", "1.5e+06",
    ]  # fmt: skip
    assert signed(-0.5) == "-0.50"
    assert signed(0.0) == "+0.00"
