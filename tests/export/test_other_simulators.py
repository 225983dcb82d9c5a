"""`roofml export` for other tools: what is written, what is refused, and that nothing else is touched."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commandline import fails, ok, roofml

from roofml.export.exported import Exported, Loss, make_folder
from roofml.util.errors import InputError

Write = Callable[..., Path]
"""The fixture `coefficients`."""
SMALL = ("--max-num-seqs", 8, "--lengths", "200x20", "--max-num-batched-tokens", 2048)
FILES = {
    "llm-d-sim": ["llm-d-sim.yaml"],
    "latency-predictor": ["latency-predictor.json"],
    "model-tuner": ["model-tuner/default-config-data.json", "model-tuner/model-data.json"],
    "dynamo": [
        "dynamo-profile/perf_data.npz",
        "dynamo-profile/selected_decode_interpolation/raw_data.npz",
        "dynamo-profile/selected_prefill_interpolation/raw_data.npz",
    ],
}
if importlib.util.find_spec("pyarrow") is not None:
    SYSTEM = "systems/data/roofml_llama_2_7b_hf_h100_tp1"
    FILES["aiconfigurator"] = [
        "systems/roofml_llama_2_7b_hf_h100_tp1.yaml",
        "systems/query_versions.yaml",
        *(
            f"{SYSTEM}/{family}/vllm/0.15.1/{name}"
            for family, name in (
                ("gemm", "gemm_perf.parquet"),
                ("gemm", "collection_meta.yaml"),
                ("attention", "context_attention_perf.parquet"),
                ("attention", "generation_attention_perf.parquet"),
                ("attention", "collection_meta.yaml"),
                ("comm", "custom_allreduce_perf.parquet"),
                ("comm", "collection_meta.yaml"),
            )
        ),
    ]
MORE = {"latency-predictor": ("--rate", "5", "--requests", 100)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("target", FILES)
def test_it_writes_its_files_and_says_what_the_form_loses(coefficients: Write, tmp_path: Path, target: str) -> None:
    path = coefficients()
    said = ok("export", target, path, *SMALL, *MORE.get(target, ()))
    written = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file() and f.name != path.name)
    assert written == sorted(FILES[target])
    assert "median |%|" in said.out
    assert all(f"written: {name}" in said.out for name in FILES[target])
    assert len(shlex.split(said.out.split("use it with: ")[1])) >= 2
    document = ok("export", target, path, *SMALL, *MORE.get(target, ()), "--json").document
    assert sorted(document["files"]) == sorted(FILES[target])
    assert all(loss["median_pct"] >= 0 for loss in document["losses"])
    assert document["losses"]
    assert ok("export", target, path, *SMALL, *MORE.get(target, ()), "--quiet").out == ""


@pytest.mark.parametrize("target", FILES)
def test_an_input_is_never_an_output(coefficients: Write, tmp_path: Path, target: str) -> None:
    path = coefficients()
    before = path.read_bytes()
    result = fails("export", target, path, *SMALL, *MORE.get(target, ()), "-o", path)
    assert str(path) in result.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize("where", ["no/such/folder", "taken/below"])
def test_a_place_that_is_not_there_is_refused(coefficients: Write, tmp_path: Path, target: str, where: str) -> None:
    path = coefficients()
    (tmp_path / "taken").write_text("")
    fails("export", target, path, *SMALL, *MORE.get(target, ()), "-o", where)
    assert names(tmp_path) == sorted([path.name, "taken"])


def test_a_read_only_file_among_several_leaves_the_others(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "model-data.json").write_text("mine")
    (tmp_path / "config" / "model-data.json").chmod(0o444)
    assert "is read-only" in fails("export", "model-tuner", path, *SMALL, "-o", "config").err
    assert names(tmp_path / "config") == ["model-data.json"]


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "many"], "--lengths"),
        (["--lengths", "9000x10"], "expected at most"),
        (["--max-num-seqs", "0"], "--max-num-seqs"),
        (["--tp", "2"], "--tp 2"),
    ],
)
def test_bad_options_are_refused_by_name(coefficients: Write, target: str, options: list[str], message: str) -> None:
    path = coefficients()
    result = roofml("export", target, path, *options, *MORE.get(target, ()))
    assert result.status == 2
    assert message in result.err


@pytest.mark.parametrize("target", FILES)
def test_a_file_that_is_no_fit_is_refused(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("schema: roofml/1\nstep: 3\n")
    assert "c.yaml" in fails("export", target, "c.yaml", *SMALL, *MORE.get(target, ())).err
    assert "nothing.yaml" in fails("export", target, "nothing.yaml", *SMALL, *MORE.get(target, ())).err


def test_a_misfit_is_told_in_the_file(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients()
    path.write_text(path.read_text().replace("fit:\n", 'fit:\n  misfit:\n  - "weights: odd # x"\n', 1))
    assert "does not describe its runs" in ok("export", "llm-d-sim", path, *SMALL).err
    written = (tmp_path / "llm-d-sim.yaml").read_text("utf-8")
    assert "# coeffs.yaml: this fit does not describe its runs: weights: odd # x" in written


def test_several_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    texts = [json.dumps([number] * 20_000) for number in range(12)]

    def write(text: str) -> None:
        Exported("x", {path: text}, [], []).write()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, texts))
    assert path.read_text() in texts
    assert names(path.parent) == ["file.json"]


def test_a_file_where_a_folder_is_to_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        make_folder(tmp_path / "file")


def test_a_loss_is_of_relative_errors() -> None:
    import numpy as np

    loss = Loss.of("x", np.array([1.1, 0.9, 2.0]), np.array([1.0, 1.0, 1.0]))
    assert (loss.mean_pct, loss.median_pct, loss.worst_pct) == pytest.approx((100 / 3, 10, 100))
    assert loss.sentence.startswith("x: 10.0 % off at the median of 3 points, at most 100.0 %, +33.3 %")
