"""Pulling with the real huggingface_hub client from a local server that speaks the Hub's API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import FakeHub, drips, sends, serve_hub, without_end
from huggingface_hub import hf_hub_download
from quickness import quickly
from typer.testing import CliRunner

from roofml.models.hub import pull
from roofml.models.load import load_model
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
    hf_hub_download(
        "org/model", "config.json", revision="a" * 40, cache_dir=folders["cache_dir"], endpoint=hub.endpoint
    )
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
        ({"config.json": b"{"}, {}, r"config.json: not valid JSON"),
        ({"config.json": b"[1]"}, {}, r"expected a JSON object"),
        ({"config.json": {"model_type": "vae"}}, {}, r"names no architectures"),
        ({"config.json": b"\xff"}, {}, r"not UTF-8"),
        ({"config.json": CONFIG, "hf_quant_config.json": b"x"}, {}, r"hf_quant_config.json: not valid JSON"),
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


API, FILE = "/api/models/org/model", f"/org/model/resolve/{'a' * 40}/config.json"
GOOD = {"id": "org/model", "sha": "a" * 40, "siblings": [{"rfilename": "config.json"}]}


def listing(**changes: Any) -> Callable[[Any], None]:
    return sends(json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value != "left out"}).encode())


ODD_ANSWERS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "listing is a list": (API, sends(b"[]"), "the Hub's answer: expected a JSON object"),
    "listing is null": (API, sends(b"null"), "the Hub's answer: expected a JSON object"),
    "listing is a page": (API, sends(b"<html>\n\nsign in</html>"), "the Hub's answer: not valid JSON"),
    "listing is empty": (API, sends(b""), "the Hub's answer: not valid JSON"),
    "listing is deep": (API, sends(b"[" * 100_000), "the Hub's answer: not valid JSON: nested too deep"),
    "listing is binary": (API, sends(b"\xff\xfe"), "the Hub's answer: not UTF-8"),
    "listing is 20 MB": (API, sends(b" " * 20_000_000), "20000000 bytes, expected at most 16000000"),
    "listing never ends": (API, without_end, "more bytes than expected, at most 16000000"),
    "no id": (API, listing(id="left out"), "id: expected a repository, found 'None'"),
    "id of lines": (API, listing(id="a\nb/c"), r"id: expected a repository, found 'a\\nb/c'"),
    "id is a list": (API, listing(id=["org/model"]), "id: expected a repository"),
    "no sha": (API, listing(sha="left out"), "the Hub names no commit"),
    "sha is a number": (API, listing(sha=7), "the Hub names no commit"),
    "sha is short": (API, listing(sha="abc"), r"the Hub names no commit \(found 'abc'\)"),
    "sha is a path": (API, listing(sha="../../x"), "the Hub names no commit"),
    "no siblings": (API, listing(siblings="left out"), "siblings: expected the list of its files"),
    "siblings is text": (API, listing(siblings="config.json"), "siblings: expected the list of its files"),
    "siblings of text": (API, listing(siblings=["config.json", None, {"name": 1}]), "no config.json at aaaaaaaaaaaa"),
    "another status": (API, sends(b"", 418), "the Hub answered with status 418"),
    "packed": (API, sends(b"x", Content_Encoding="gzip"), "packed bytes that were not asked for"),
    "cut": (API, sends(b"{", Content_Length="500"), "the Hub cannot be reached"),
    "no HTTP": (API, lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"), "the Hub cannot be reached"),
    "another host": (API, sends(b"", 302, Location="http://evil.example/x"), "redirects to another host, http://evil"),
    "another port": (API, sends(b"", 302, Location="http://127.0.0.1:1/x"), "redirects to another host"),
    "a circle": (API, sends(b"", 302, Location=API), "redirects more than 5 times"),
    "nowhere": (API, sends(b"", 302, Location="http://[/"), "org/model: "),
    "file on another host": (FILE, sends(b"", 307, Location="https://evil.example/x"), "redirects to another host"),
    "file of another commit": (FILE, sends(b"{}", X_Repo_Commit=OTHER), f"sends that of {OTHER}, asked for {'a' * 40}"),
    "file of no commit": (FILE, sends(b"{}"), "sends that of a commit that it does not name"),
    "file never ends": (FILE, without_end, "config.json: more bytes than expected, at most 4000000"),
    "file says a huge size": (FILE, sends(b"", Content_Length="9" * 12), "expected at most 4000000"),
    "file is not there": (FILE, sends(b"", 404, X_Error_Code="EntryNotFound"), "no config.json"),
    "file has a key twice": (
        FILE, sends(b'{"architectures": [], "a": 1, "a": 2}', X_Repo_Commit="a" * 40), "key 'a' is there twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_odd_answer_of_the_hub_is_refused_in_one_line_and_nothing_is_written(
    hub: FakeHub, folders: dict[str, Any], name: str
) -> None:
    path, answer, message = ODD_ANSWERS[name]
    hub.add("org/model", {"config.json": CONFIG})
    hub.odd[path] = answer
    with pytest.raises(InputError, match=message) as error:
        pull("org/model", **folders)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert str(error.value).startswith("org/model: ")
    assert not folders["folder"].exists()


@pytest.mark.parametrize("path", [API, FILE])
@pytest.mark.parametrize("in_headers", [True, False])
def test_a_hub_that_drips_is_not_waited_for(
    hub: FakeHub, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, path: str, in_headers: bool
) -> None:
    monkeypatch.setattr("roofml.models.hub.LONGEST_S", 0.5)
    hub.add("org/model", {"config.json": CONFIG})
    hub.odd[path] = drips(in_headers)
    with quickly(2), pytest.raises(InputError, match="no copy is at hand: not done after"):
        pull("org/model", **folders)


def test_another_commit_than_the_one_asked_for_is_refused(hub: FakeHub, folders: dict[str, Any]) -> None:
    """What was asked for is what is kept: not what a mirror has."""
    hub.add("org/model", {"config.json": CONFIG})
    hub.odd[f"{API}/revision/{OTHER}"] = listing()
    with pytest.raises(InputError, match=f"answers with commit {'a' * 40}, asked for {OTHER}"):
        pull("org/model", OTHER, **folders)


def test_a_file_redirected_within_the_hub_is_followed(hub: FakeHub, folders: dict[str, Any]) -> None:
    hub.add("org/model", {"config.json": CONFIG})
    hub.odd[FILE] = sends(b"", 307, Location="/cache/config.json", X_Repo_Commit="a" * 40)
    hub.odd["/cache/config.json"] = sends(json.dumps(CONFIG).encode(), X_Repo_Commit="a" * 40)
    assert json.loads((pull("org/model", **folders).folder / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize("revision", ["", "a b", "../x", "/etc", "x\n", "\x1b[2J", "x" * 300])
def test_impossible_revisions_are_refused_without_asking(hub: FakeHub, folders: dict[str, Any], revision: str) -> None:
    with pytest.raises(InputError, match="expected a branch, tag or commit"):
        pull("org/model", revision, **folders)
    assert hub.seen == []


@pytest.mark.parametrize("endpoint", ["file:///etc", "huggingface.co", "http://", "https://a b/", "http://x\ny"])
def test_an_endpoint_that_is_no_address_is_named(
    folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(InputError, match=r"HF_ENDPOINT: .*expected the address of a Hub"):
        pull("org/model", **folders)


@pytest.mark.parametrize("what", ["provenance.json", "config.json"])
def test_a_pull_whose_files_cannot_all_be_written_leaves_what_was_there(
    hub: FakeHub, folders: dict[str, Any], what: str
) -> None:
    repository = hub.add("org/model", {"config.json": CONFIG})
    target = pull("org/model", **folders).folder
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    repository.revisions |= {"v2": OTHER, OTHER: OTHER}
    repository.files[OTHER] = {"config.json": json.dumps({**CONFIG, "vocab_size": 7}).encode()}
    (target / what).chmod(0o444)
    with pytest.raises(InputError, match="read-only"):
        pull("org/model", "v2", **folders)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.parametrize(
    "provenance",
    ["[]", "null", "{}", '{"files": []}', '{"files": {"config.json": 7}, "hf_repo": "a/b", "revision": "x"}', "{" * 9],
)
def test_a_provenance_that_makes_no_sense_is_none(hub: FakeHub, folders: dict[str, Any], provenance: str) -> None:
    hub.add("org/model", {"config.json": CONFIG})
    pulled = pull("org/model", **folders)
    (pulled.folder / "provenance.json").write_text(provenance)
    assert pull("org/model", **folders) == pulled


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
