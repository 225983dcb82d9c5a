"""Editing a user's `defaults.yaml`: our lines change, nothing else does, and BLIS will read it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from blis_defaults import SET, strict
from ruamel.yaml import YAML

from roofml.blis.deployment import BlisCoefficients
from roofml.export.defaults import ModelEntry, edit_defaults
from roofml.export.edit import write_edits
from roofml.util.errors import InputError

OTHER = BlisCoefficients((1, 2, 3), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
MODEL = ModelEntry("CodeLlama-34b-Instruct-hf", "H100", 2, "codellama/CodeLlama-34b-Instruct-hf")
WHY = ("fitted by roofml 0.1.0", "on 6300 requests of run a")

ODD = """\
# my defaults   (do not touch)
version:   "0.4"      # quoted on purpose


defaults:
    # the small one
    llama-2-7b-hf: &small   { GPU: H100,   tensor_parallelism: 1, hf_repo: 'meta-llama/Llama-2-7b-hf' }
    codellama-34b-instruct-hf:
        GPU:   A100-SXM       # moved in March
        tensor_parallelism:    4
        hf_repo: codellama/CodeLlama-34b-Instruct-hf
    # the last one
workloads:
  chatbot: &chat
    prefix_tokens: 0
    prompt_tokens:   256
  copy:
    <<: *chat
    prompt_tokens: 512

trained_physics_coefficients:
  # alphas in µs
  alpha_coeffs: [15563.199579, 777.3455,   45.907545]   # as shipped
  beta_coeffs:
    - 0.152128       # prefill
    - 0
    - 1.36252915
    - 0.752037
    - 32.09546717
    - 4.41684444
    - 126.024825
    - 481.8613888
    - 0
    - 1.94710771
    - 0.752037       # ep

lora:
- {name: a,    size: 1}
"""


def edited(tmp_path: Path, text: str, *args: Any) -> str:
    path = tmp_path / "defaults.yaml"
    path.write_bytes(text.encode())
    return edit_defaults(path, *args).after


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in diff if line.startswith("- ")], [line[2:] for line in diff if line.startswith("+ ")]


def test_only_our_lines_change_in_a_file_with_comments_anchors_and_odd_spacing(tmp_path: Path) -> None:
    after = edited(tmp_path, ODD, SET, MODEL, WHY)
    gone, new = changed_lines(ODD, after)
    assert gone == [
        "        GPU:   A100-SXM       # moved in March",
        "        tensor_parallelism:    4",
        "  alpha_coeffs: [15563.199579, 777.3455,   45.907545]   # as shipped",
        "    - 0.152128       # prefill",
        "    - 1.36252915", "    - 0.752037", "    - 32.09546717", "    - 4.41684444", "    - 126.024825",
        "    - 481.8613888", "    - 1.94710771", "    - 0.752037       # ep",
    ]  # fmt: skip
    assert new == [
        "        GPU:   H100       # moved in March",
        "        tensor_parallelism:    2",
        "# roofml: fitted by roofml 0.1.0",
        "# roofml: on 6300 requests of run a",
        "  alpha_coeffs: [9000.5, 400,   3]   # as shipped",
        "    - 0.9       # prefill",
        "    - 1.3", "    - 1", "    - 12.25", "    - 2", "    - 90", "    - 0", "    - 1.8", "    - 1       # ep",
    ]  # fmt: skip
    data = strict(after)
    assert data["trained_physics_coefficients"]["beta_coeffs"] == list(SET.betas)
    assert data["defaults"]["codellama-34b-instruct-hf"]["tensor_parallelism"] == 2
    assert data["workloads"]["copy"] == {"prefix_tokens": 0, "prompt_tokens": 512}


FILES = {
    "nothing": "",
    "only a comment": "# mine\n",
    "no section": "version: 1\nworkloads: {a: {b: 1}}\n",
    "no line break at the end": "version: 1",
    "our section alone": "trained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3]\n  beta_coeffs: [1, 2, 3, 4, 5, 6, 7]\n",  # noqa: E501
    "an empty section": "version: 1\ntrained_physics_coefficients:   # to do\nlora: []\n",
    "a null section at the end": "trained_physics_coefficients: null",
    "a null on its own line": "defaults:\n  ~\ntrained_physics_coefficients:\n  null # to do\nlora: []\n",
    "flow style": "trained_physics_coefficients: {alpha_coeffs: [1, 2, 3], beta_coeffs: [1, 2, 3, 4, 5, 6, 7]}\nlora: [a]\n",  # noqa: E501
    "betas only": "trained_physics_coefficients:\n  beta_coeffs: [1, 2, 3, 4, 5, 6, 7]\n\n# end\nlora: []\n",
    "flow style, alphas only": "trained_physics_coefficients: { alpha_coeffs: [1,2,3] }\n",
    "betas over several lines": "trained_physics_coefficients:\n   alpha_coeffs: [ 1,\n      2, 3 ] # a\n   beta_coeffs: [1, 2, # two\n     3, 4,\n    5, 6, 7]\n",  # noqa: E501
    "more betas than BLIS uses": "trained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3, 4]\n  beta_coeffs:\n  - 1\n"
    + "  - 2 # x\n" * 12 + "lora: []\n",
    "windows line breaks": ODD.replace("\n", "\r\n"),
    "no defaults entries": "defaults: {}\ntrained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3]\n",
    "empty defaults": "defaults:\nversion: 1\n",
    "defaults in flow style": "defaults: {a: {GPU: H100, tensor_parallelism: 1, hf_repo: b/c}}\nversion: 1\n",
    "an entry without all keys": "defaults:\n  codellama-34b-instruct-hf:\n    GPU: H100\n  z:\n    GPU: L40S\n    tensor_parallelism: 1\n    hf_repo: x/z\n",  # noqa: E501
    "an anchored entry of ours": "defaults:\n  codellama-34b-instruct-hf: &c {GPU: 'H100', tensor_parallelism: 1}\n",
    "a document marker": "---\nversion: 1\n...\n",
    "quoted keys": '"version": 1\n"trained_physics_coefficients":\n  "alpha_coeffs": [1, 2, 3]\n  \'beta_coeffs\': [1,2,3,4,5,6,7]\n',  # noqa: E501
    "a byte order mark": "\ufeffversion: 1\n",
    "text blocks": "workloads:\n  a: |\n    trained_physics_coefficients:\n      alpha_coeffs: [0]\n  b: >-\n    x\n    y\n",  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_whatever_was_there_the_result_is_strict_and_the_rest_is_the_same(tmp_path: Path, name: str) -> None:
    before = FILES[name]
    after = edited(tmp_path, before, SET, MODEL, WHY)
    data = strict(after.removeprefix("\ufeff"))
    assert data["trained_physics_coefficients"] == {"alpha_coeffs": list(SET.alphas), "beta_coeffs": list(SET.betas)}
    entry = data["defaults"]["codellama-34b-instruct-hf"]
    assert (entry["GPU"], entry["tensor_parallelism"], entry["hf_repo"]) == ("H100", 2, MODEL.hf_repo)
    for comment in ("# mine", "# to do", "# end", "# a", "# two", "# x", "# my defaults   (do not touch)"):
        assert after.count(comment) == before.count(comment)
    old = YAML(typ="safe", pure=True).load(before.removeprefix("\ufeff")) or {}
    for key in set(old) - {"defaults", "trained_physics_coefficients"}:
        assert data[key] == old[key]


@pytest.mark.parametrize("name", FILES)
def test_the_same_export_again_changes_nothing_and_another_leaves_no_traces_of_the_first(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_bytes(FILES[name].encode())
    write_edits([edit_defaults(path, SET, MODEL, WHY)], backup=False)
    assert not edit_defaults(path, SET, MODEL, WHY).changed
    write_edits([edit_defaults(path, OTHER, MODEL, ("once more",))], backup=False)
    write_edits([edit_defaults(path, SET, MODEL, WHY)], backup=False)
    assert not edit_defaults(path, SET, MODEL, WHY).changed
    assert path.read_text().count("once more") == 0


def test_a_file_that_is_not_there_is_made_with_our_sections_only(tmp_path: Path) -> None:
    edit = edit_defaults(tmp_path / "new.yaml", SET, MODEL, WHY)
    assert edit.before is None
    assert write_edits([edit]) == [None]
    text = (tmp_path / "new.yaml").read_text()
    assert text == (
        "# roofml: fitted by roofml 0.1.0\n# roofml: on 6300 requests of run a\n"
        "trained_physics_coefficients:\n  alpha_coeffs: [9000.5, 400, 3]\n"
        "  beta_coeffs: [0.9, 0, 1.3, 1, 12.25, 2, 90, 0, 0, 1.8, 1]\n\n"
        "defaults:\n  codellama-34b-instruct-hf:\n    GPU: H100\n    tensor_parallelism: 2\n"
        "    hf_repo: codellama/CodeLlama-34b-Instruct-hf\n"
    )


def test_nothing_is_written_before_it_is_asked_for_and_the_old_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(ODD)
    edit = edit_defaults(path, SET)
    assert path.read_text() == ODD
    assert edit.diff().startswith(f"--- {path}\n+++ {path}\n@@")
    assert write_edits([edit]) == [tmp_path / "defaults.yaml.bak"]
    assert (tmp_path / "defaults.yaml.bak").read_text() == ODD
    assert write_edits([edit_defaults(path, OTHER)]) == [tmp_path / "defaults.yaml.bak2"]
    assert write_edits([edit_defaults(path, OTHER)]) == [None]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["defaults.yaml", "defaults.yaml.bak", "defaults.yaml.bak2"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("version: 1\n")
    link = tmp_path / "defaults.yaml"
    link.symlink_to(tmp_path / "real.yaml")
    write_edits([edit_defaults(link, SET)], backup=False)
    assert link.is_symlink()
    assert "alpha_coeffs" in (tmp_path / "real.yaml").read_text()


REFUSED = {
    "version: 1\ncolour: red\n": "line 2: unknown key 'colour'",
    "trained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3]\n  note: mine\n": "line 3: .*unknown key 'note'",
    "version: [1\n": "line 2: not valid YAML",
    "- 1\n": "expected a mapping in block style",
    "{version: 1}\n": "expected a mapping in block style",
    "version: 1\n---\nversion: 2\n": "more than one YAML document",
    "version: 1\nversion: 2\n": "line 2: key 'version' is there twice",
    "trained_physics_coefficients: 7\n": "trained_physics_coefficients: expected a mapping",
    "lora: &x {a: 1}\ntrained_physics_coefficients: *x\n": "line 2: trained_physics_coefficients is an alias",
    "trained_physics_coefficients:\n  alpha_coeffs: &a [1, 2, 3]\nlora: *a\n": "line 2: anchor &a is used elsewhere",
    "defaults: [1]\n": "defaults: expected a mapping",
    "lora: &x {GPU: H100}\ndefaults:\n  codellama-34b-instruct-hf: *x\n": "expected a mapping written out",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_blis_would_not_read_or_that_cannot_be_edited_is_refused_by_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=REFUSED[text]) as error:
        edited(tmp_path, text, SET, MODEL)
    assert str(tmp_path / "defaults.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8 text"):
        edit_defaults(tmp_path / "binary", SET)
    with pytest.raises(InputError, match="is a folder, expected a file"):
        edit_defaults(tmp_path, SET)
