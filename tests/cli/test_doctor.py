"""`roofml doctor`: what it found, and what flags say beside the folder."""

from __future__ import annotations

import re
from pathlib import Path

from commandline import ok, roofml, saturated_folder
from runfolder import RunFolder, exp_config, header, requests


def test_doctor_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    shown = ok("doctor", folder).out
    assert "quiet" in shown
    assert "150 requests, 150 to measure" in shown
    narrow = RunFolder(rows=requests(300, output=100)).write(tmp_path / "narrow")
    assert re.search(r"^ +info  The run covers .*\n +To pin more coefficients down", ok("doctor", narrow).out, re.M)


def test_doctor_json_is_a_list_of_diagnoses(folder: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    runs = ok("doctor", folder, full, "--json").document["runs"]
    assert [(run["run"], run["saturated"], run["tp"]) for run in runs] == [("quiet", False, 1), ("full", True, 1)]
    assert {"code", "severity", "summary", "evidence", "advice"} == set(runs[1]["findings"][0])


def test_doctor_shows_a_run_that_fit_refuses(tmp_path: Path) -> None:
    head, settings = header(), exp_config() | {"max_model_len": 700}
    head["server"]["max_model_len"] = 700
    short = RunFolder(rows=requests(60), header=head, exp_config=settings).write(tmp_path / "short")
    assert "error" in ok("doctor", short).out
    result = roofml("fit", short, "--gpu", "H100", "-o", tmp_path / "c.yaml")
    assert result.status == 2
    assert re.fullmatch(r"roofml: .*short: longer-than-server-allows: .*\n", result.err)
    assert not (tmp_path / "c.yaml").exists()


def test_flags_overrule_and_complete_the_folder(tmp_path: Path) -> None:
    bare = RunFolder(rows=requests(60), kv_cache=None).write(tmp_path / "bare")
    flags = ["--num-gpu-blocks", 5000, "--tp", 2, "--no-prefix-caching", "--no-async-scheduling", "--warm"]
    flags += ["--gpu", "H200"]
    (run,) = ok("doctor", bare, *flags, "--json").document["runs"]
    said = {"num_gpu_blocks": 5000, "tensor_parallel": 2, "prefix_caching": False, "async_scheduling": False}
    said["fresh"] = False
    assert run["server"].items() >= (said | {"gpu": "H200"}).items()
    assert "flag-overrules-file" in {finding["code"] for finding in run["findings"]}


def test_the_doctor_needs_no_flag_and_lists_what_nobody_says(tmp_path: Path) -> None:
    bare = RunFolder(rows=requests(60), kv_cache=None).write(tmp_path / "bare")
    (run,) = ok("doctor", bare, "--json").document["runs"]
    assert run["missing"] == ["num_gpu_blocks", "gpu", "engine_version"]
    assert run["server"]["num_gpu_blocks"] is None
    assert run["server"]["max_num_seqs"] == 128
    assert run["said_by"]["max_num_seqs"] == "trace.yaml"
    assert "give --num-gpu-blocks N --gpu GPU" in ok("doctor", bare).out


def test_commands_that_compute_ask_for_all_that_is_missing_at_once(tmp_path: Path) -> None:
    settings = {key: value for key, value in exp_config().items() if key != "max_num_batched_tokens"}
    bare = RunFolder(rows=requests(60), exp_config=settings, kv_cache=None).write(tmp_path / "bare")
    result = roofml("fit", bare)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "max_num_batched_tokens, num_gpu_blocks: not said by" in result.err
    assert "give --max-num-batched-tokens N --num-gpu-blocks N --gpu GPU" in result.err
