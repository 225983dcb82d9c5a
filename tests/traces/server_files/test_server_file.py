"""The server file: what is known of a server, written once, read for every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import fails, ok
from runfolder import RunFolder

from roofml.traces.server import ServerFileFacts, ServerOverrides, alike, resolve_server
from roofml.traces.server_files import read_server, read_server_files, server_facts, server_file, server_reports
from roofml.traces.server_files.server_file import Described, server_yaml, write_server
from roofml.util.errors import InputError, NotSupportedError

FACTS: dict[str, object] = {
    "model": "acme/Model: 7B # odd",
    "tensor_parallel": 2,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "block_size": 16,
    "num_gpu_blocks": 9521,
    "max_model_len": 4096,
    "gpu": "H100",
    "prefix_caching": False,
    "engine_version": "0.15.1",
    "policy": "priority",
    "watermark": 0.01,
    "cudagraph_capture_sizes": [1, 2, 4],
}


def write(folder: Path, text: str) -> Path:
    path = folder / "server.yaml"
    path.write_text(text)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    write_server(path, [Described(FACTS, dict.fromkeys(FACTS, "server\x1b[0m.log"))])
    assert server_file.detect(path)
    assert dict(server_file.facts(path).facts) == FACTS
    assert read_server(path) == FACTS
    assert "\x1b" not in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: roofml-server/2\n", "newer than this roofml"),
        ("schema: roofml/1\n", "expected roofml-server/1"),
        ("schema: roofml-server/1\ncolour: red\n", "colour: found 'red', expected one of model"),
        ("schema: roofml-server/1\nmodel:\n", "model: found None, expected a value"),
        ("schema: roofml-server/1\nmax_num_seqs: many\n", "max_num_seqs: 'many', expected a whole number"),
        ("schema: roofml-server/1\nmax_num_seqs: 1e9\n", "max_num_seqs: 1000000000.0, expected a whole number"),
        ("schema: roofml-server/1\nsettings: [1]\n", "settings: found [1], expected a mapping"),
        ("schema: roofml-server/1\nsettings: {colour: 1}\n", "settings.colour: unknown, expected one of policy"),
        ("schema: roofml-server/1\nsettings: {policy: none}\n", "policy: 'none'"),
        ("schema: roofml-server/1\nmodel: a\nmodel: b\n", "key 'model' is there twice"),
    ],
)
def test_a_wrong_server_file_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        server_file.facts(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_is_not_modelled_stays_refused_through_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    write_server(
        path, [Described({"model": "a", "speculative_config": {"method": "mtp"}, "data_parallel_size": 1}, {})]
    )
    with pytest.raises(NotSupportedError, match="speculative decoding is not modelled"):
        read_server(path)


def test_it_is_written_over_nothing_but_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "my: notes\n")
    with pytest.raises(InputError, match="is no server file of ours"):
        write_server(path, [Described(FACTS, {})])
    assert path.read_text() == "my: notes\n"
    path.write_text(server_yaml(Described({"model": "a"}, {})))
    write_server(path, [Described(FACTS, {})])
    assert read_server(path) == FACTS


def test_runs_of_two_servers_make_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_num_seqs: 64 and 65: the runs are of different servers"):
        write_server(tmp_path / "s.yaml", [Described(FACTS, {}), Described({**FACTS, "max_num_seqs": 65}, {})])
    with pytest.raises(InputError, match="nothing is known"):
        write_server(tmp_path / "s.yaml", [Described({}, {})])


def overrides(facts: dict[str, object], **flags: object) -> ServerOverrides:
    return ServerOverrides(server_file=ServerFileFacts("my.yaml", facts), **flags)  # pyright: ignore[reportArgumentType]


def test_flags_win_over_the_file_and_the_file_over_what_lies_beside() -> None:
    beside = {"run.log": {**FACTS, "max_num_seqs": 1, "tensor_parallel": 1, "watermark": 0.5}}
    given = overrides({"max_num_seqs": 2, "tensor_parallel": 2, "watermark": 0.25}, max_num_seqs=3)
    server, findings = resolve_server(Path("run"), beside, {}, given)
    assert (server.max_num_seqs, server.tensor_parallel, server.settings.watermark) == (3, 2, 0.25)
    assert server.said_by["tensor_parallel"] == "my.yaml"
    told = {str(finding.evidence["field"]): finding.summary for finding in findings}
    assert told["tensor_parallel"] == "tensor_parallel is taken as 2 from my.yaml, although run.log says 1."
    assert "my.yaml says 2" in told["max_num_seqs"]
    assert "from --max-num-seqs" in told["max_num_seqs"]


def test_the_file_may_be_a_log_or_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text("services:\n  s:\n    image: vllm/vllm-openai:v0.11.0\n    command: --model a/b --max-num-seqs 8\n")
    assert read_server(path)["max_num_seqs"] == 8
    path.write_text("just: yaml\n")
    with pytest.raises(InputError, match="says nothing of a server"):
        read_server(path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("H100", "nvidia-h100-80gb", True),
        ("H100-SXM-80GB", "NVIDIA H100 80GB HBM3", True),
        ("H100", "H100-NVL", False),
        ("A100", "NVIDIA-A100-SXM4-40GB", False),
        ("L40S", "NVIDIA-L40S-48GB", True),
        ("L40S", "L40", False),
        ("H100", "H200", False),
    ],
)
def test_two_names_of_one_gpu_are_no_disagreement(one: str, other: str, same: bool) -> None:
    assert alike("gpu", one, other) is same
    assert alike("gpu", other, one) is same


LOG = "\n".join(
    f"INFO 02-26 06:50:32 [x.py:1] {text}"
    for text in (
        "vLLM API server version 0.15.1",
        "non-default args: {'model': 'a/b', 'max_num_seqs': 64}",
        "Initializing a V1 LLM engine (v0.15.1) with config: model='a/b', max_seq_len=4096, tensor_parallel_size=2",
        "GPU KV cache size: 16,000 tokens",
    )
)


def test_what_ran_weighs_more_than_what_was_asked_for(tmp_path: Path) -> None:
    log, script = tmp_path / "server.log", tmp_path / "serve.sh"
    log.write_text(LOG)
    script.write_text("vllm serve /models/b --max-num-seqs 64 --max-num-batched-tokens 512 -tp 2\n")
    files = read_server_files([script, log])
    assert list(files.facts) == ["server.log", "serve.sh"]
    assert files.facts["serve.sh"] == {"max_num_seqs": 64, "max_num_batched_tokens": 512, "tensor_parallel": 2}
    assert files.said_by["max_num_batched_tokens"] == "serve.sh"
    assert files.merged["model"] == "a/b"
    assert [finding.code for finding in files.findings] == ["server-files-disagree"]
    assert server_facts([script, log, tmp_path / "absent"]) == dict(files.facts)


def test_a_folder_is_one_server_and_logs_alone_are_several(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG)
    (tmp_path / "serve.sh").write_text("vllm serve a/b -tp 2\n")
    assert len(server_reports([tmp_path])) == 1
    (tmp_path / "serve.sh").unlink()
    (tmp_path / "b.log").write_text(LOG)
    assert len(server_reports([tmp_path])) == 2


def test_doctor_of_a_log_alone_says_the_server_and_writes_it(tmp_path: Path) -> None:
    log, out = tmp_path / "server.log", tmp_path / "server.yaml"
    log.write_text(LOG)
    document = ok("doctor", log, "--json", "--gpu", "H100", "--write-server", out).document
    assert document["runs"] == []
    (server,) = document["server"]
    assert (server["version"], server["model"], server["tp"], server["num_gpu_blocks"]) == ("0.15.1", "a/b", 2, 1000)
    assert server["said_by"]["num_gpu_blocks"] == "server.log"
    assert "gpu" in server["missing"]
    assert read_server(out)["gpu"] == "H100"
    assert "gpu: H100  # --gpu" in out.read_text()
    assert "refused" not in server


def test_a_server_file_serves_a_run_that_lacks_everything(tmp_path: Path) -> None:
    run = RunFolder(kv_cache=None).write(tmp_path / "run")
    asked = fails("replay", run)
    assert "num_gpu_blocks" in asked.err
    log = tmp_path / "server.log"
    log.write_text(LOG)
    out = tmp_path / "server.yaml"
    ok("doctor", log, "--write-server", out, "--gpu", "H100", "--model", "meta-llama/Llama-2-7b-hf", "--tp", 1)
    document = ok("doctor", run, "--server", out, "--json").document
    assert document["runs"][0]["server"]["num_gpu_blocks"] == 1000
    assert document["runs"][0]["gpu"] == "H100"
    json.dumps(document)


def test_points_have_no_server_beside_them(tmp_path: Path) -> None:
    out = write(tmp_path, server_yaml(Described(FACTS, {})))
    assert "--server" in fails("evaluate", "--points", out, "--server", out).err
