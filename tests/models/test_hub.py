"""Pulling with the real huggingface_hub client from a local server that speaks the Hub's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import FakeHub, serve_hub
from typer.testing import CliRunner

from roofml.models.hub import pull
from roofml.models.spec import load_model
from roofml.util.errors import InputError

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}
OTHER = "b" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {"folder": tmp_path / "model_configs", "cache_dir": tmp_path / "cache"}


def test_pull_writes_the_config_byte_for_byte_and_says_where_it_came_from(
    hub: FakeHub, folders: dict[str, Any]
) -> None:
    raw = b'{\n  "architectures": ["Qwen2ForCausalLM"],\r\n "note": "\xc3\xa9" }\n'
    hub.add("Org/Tiny-Model_1.5", {"config.json": raw, "model.safetensors": b"", "hf_quant_config.json": {"a": 1}})
    pulled = pull("Org/Tiny-Model_1.5", **folders)
    target = folders["folder"] / "tiny-model_1.5"
    assert (pulled.name, pulled.folder, pulled.revision, pulled.source) == ("tiny-model_1.5", target, "a" * 40, "hub")
    assert (target / "config.json").read_bytes() == raw
    provenance = json.loads((target / "provenance.json").read_text())
    assert provenance == {"hf_repo": "Org/Tiny-Model_1.5", "revision": "a" * 40, "files": pulled.files}
    assert sorted(pulled.files) == ["config.json", "hf_quant_config.json"]
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "hf_quant_config.json", "provenance.json"]


def test_what_was_pulled_is_not_asked_for_again(hub: FakeHub, folders: dict[str, Any]) -> None:
    hub.add("org/model", {"config.json": CONFIG})
    first = pull("org/model", **folders)
    hub.seen.clear()
    assert pull("org/model", **folders).source == "disk"
    assert pull("org/model", "a" * 40, **folders).files == first.files
    assert hub.seen == []


def test_a_named_revision_is_resolved_again_and_replaces_what_was_there(hub: FakeHub, folders: dict[str, Any]) -> None:
    repository = hub.add("org/model", {"config.json": CONFIG, "hf_quant_config.json": {"quantization": {}}})
    pull("org/model", **folders)
    repository.revisions |= {"v2": OTHER, OTHER: OTHER}
    repository.files[OTHER] = {"config.json": json.dumps({**CONFIG, "vocab_size": 256}).encode()}
    pulled = pull("org/model", "v2", **folders)
    assert pulled.revision == OTHER
    assert load_model(str(pulled.folder)).vocab_size == 256
    assert not (pulled.folder / "hf_quant_config.json").exists()


def test_a_changed_file_is_pulled_again(hub: FakeHub, folders: dict[str, Any]) -> None:
    hub.add("org/model", {"config.json": CONFIG})
    pulled = pull("org/model", **folders)
    (pulled.folder / "config.json").write_text("{}")
    assert pull("org/model", **folders).source == "hub"
    assert json.loads((pulled.folder / "config.json").read_text()) == CONFIG


def test_a_hub_out_of_reach_is_no_obstacle_to_what_the_client_has_cached(
    hub: FakeHub, folders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", {"config.json": CONFIG})
    pull("org/model", "a" * 40, **folders)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = pull("org/model", "a" * 40, folder=tmp_path / "elsewhere", cache_dir=folders["cache_dir"])
    assert (again.source, again.revision) == ("cache", "a" * 40)
    with pytest.raises(InputError, match="cannot be reached and no copy is at hand"):
        pull("org/unknown", **folders)


@pytest.mark.parametrize("token", [None, "secret"])
def test_the_token_comes_from_the_environment(
    hub: FakeHub, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    hub.add("org/private", {"config.json": CONFIG}, token="secret")
    if token is None:
        with pytest.raises(InputError, match=r"^org/private: no such repository .* private one \(set HF_TOKEN\)$"):
            pull("org/private", **folders)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
        assert pull("org/private", **folders).source == "hub"


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"config.json": CONFIG}, {"gated": True}, r"gated: accept its terms at https://huggingface.co/org/model"),
        ({"model.gguf": b""}, {}, r"no config.json at aaaaaaaaaaaa"),
        ({"config.json": b"{"}, {}, r"config.json is not valid JSON"),
        ({"config.json": b"[1]"}, {}, r"expected a JSON object"),
        ({"config.json": {"model_type": "vae"}}, {}, r"names no architectures"),
        ({"config.json": b"\xff"}, {}, r"not UTF-8"),
        ({"config.json": CONFIG, "hf_quant_config.json": b"x"}, {}, r"hf_quant_config.json is not valid JSON"),
        ({"config.json": b" " * 4_000_001}, {}, r"expected at most 4000000"),
    ],
)
def test_a_repository_that_cannot_be_used_is_refused_in_one_line(
    hub: FakeHub, folders: dict[str, Any], files: dict[str, object], options: dict[str, Any], message: str
) -> None:
    hub.add("org/model", files, **options)
    with pytest.raises(InputError, match=message) as error:
        pull("org/model", **folders)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("org/model: ")
    assert not (folders["folder"] / "model").exists()


def test_missing_renamed_and_unknown_revision_are_told_apart(hub: FakeHub, folders: dict[str, Any]) -> None:
    hub.add("new/name", {"config.json": CONFIG})
    hub.moved["old/name"] = "new/name"
    with pytest.raises(InputError, match="old/name: renamed to new/name on the Hub: pull that"):
        pull("old/name", **folders)
    with pytest.raises(InputError, match="no such repository on the Hub"):
        pull("org/nothing", **folders)
    with pytest.raises(InputError, match="new/name: no revision 'v9'"):
        pull("new/name", "v9", **folders)


def test_a_name_taken_by_another_repository_is_refused(hub: FakeHub, folders: dict[str, Any]) -> None:
    hub.add("first/model", {"config.json": CONFIG})
    hub.add("second/model", {"config.json": CONFIG})
    pull("first/model", **folders)
    with pytest.raises(InputError, match="holds the config of first/model: move it away"):
        pull("second/model", **folders)


@pytest.mark.parametrize(
    "repo",
    ["", "model", "a/b/c", "org/..", "../model", "org/../../etc", "/etc/passwd", "org/mo del", "org/.hidden", "org/a\n",
     "org/a\\b", "http://x/y", "org/" + "x" * 200, "org/ä"],
)  # fmt: skip
def test_names_cannot_leave_the_folder(hub: FakeHub, folders: dict[str, Any], repo: str) -> None:
    with pytest.raises(InputError):
        pull(repo, **folders)
    assert hub.seen == []
    assert not folders["folder"].exists()


def test_a_broken_hub_is_reported_by_its_status(
    hub: FakeHub, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken = True
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match="org/model: the Hub answered with status 500"):
        pull("org/model", **folders)


def test_the_command_prints_one_json_document(
    hub: FakeHub, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from roofml.cli.pull import pull as command

    app = typer.Typer()
    app.command()(command)
    folders["folder"].mkdir()
    monkeypatch.setattr("roofml.models.hub.data_folder", lambda name: folders["folder"])
    hub.add("org/model", {"config.json": CONFIG})
    hub.add("org/odd", {"config.json": {**CONFIG, "architectures": ["OddForCausalLM"]}})
    result = CliRunner().invoke(app, ["org/model", "--json"])
    document = json.loads(result.stdout)
    assert (document["model"], document["revision"], document["not_supported"]) == ("model", "a" * 40, None)
    result = CliRunner().invoke(app, ["org/odd", "--quiet"])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "OddForCausalLM" in result.stderr
