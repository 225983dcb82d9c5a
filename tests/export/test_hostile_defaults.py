"""Files and names that mean harm, or are only odd: a `defaults.yaml` is edited or refused, at once and in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from blis_defaults import SET, strict
from commandline import fails, ok
from quickness import quickly

from roofml.blis.deployment import BlisCoefficients, Hardware
from roofml.export.defaults import ModelEntry, edit_defaults
from roofml.export.deployment import BlisExport
from roofml.export.edit import existing_text
from roofml.export.hardware import edit_hardware
from roofml.util.errors import InputError

MODEL = ModelEntry("CodeLlama-34b-Instruct-hf", "H100", 2, "codellama/CodeLlama-34b-Instruct-hf")
LETTERS = "abcdefghijkl"
BOMB = "".join(f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(LETTERS))
BOMB = f"  a: &a [x, x, x, x, x, x, x, x, x]\n{BOMB}"

BOMBS = {
    "bomb-defaults": f"workloads:\n{BOMB}",
    "bomb-defaults-in-the-section": f"lora:\n{BOMB}trained_physics_coefficients:\n  alpha_coeffs: *l\n",
    "bomb-defaults-merged": f"lora:\n{BOMB}workloads: {{<<: *l}}\n",
    "an anchor within itself": "workloads: &w [*w, *w]\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_aliases_are_kept_and_never_followed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(BOMBS[name])
    with quickly(1):
        after = edit_defaults(path, SET, MODEL).after
    assert after.count("*") == BOMBS[name].count("*") - BOMBS[name].count("alpha_coeffs: *")


LARGE = {
    "deep-defaults": ("workloads: " + "[" * 3000 + "]" * 3000, "line 1: nested more than 100 deep"),
    "deep-defaults-mappings": ("workloads: " + "{a: " * 3000, "line 1: nested more than 100 deep"),
    "large-defaults-keys": (
        "workloads:\n" + "".join(f"  k{i}: {i}\n" for i in range(20_000)), "297791 characters, expected at most 150000",
    ),
    "3 MB": ("# x\n" * 750_000, "3000000 characters, expected at most 150000"),
    "5 MB": ("# x\n" * 1_300_000, "5200000 bytes, expected at most 4000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_file_too_large_for_a_quick_answer_is_refused(tmp_path: Path, name: str) -> None:
    text, message = LARGE[name]
    path = tmp_path / "defaults.yaml"
    path.write_text(text)
    with quickly(3), pytest.raises(InputError, match=message):
        edit_defaults(path, SET, MODEL)


def test_many_keys_take_time_in_proportion(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text("defaults:\n" + "".join(f"  k{i}: {{}}\n" for i in range(4_000)))
    with quickly(6):
        assert "  codellama-34b-instruct-hf:\n    GPU: H100\n" in edit_defaults(path, SET, MODEL).after


REFUSED = {
    "yaml-bool-tag": ("version: !!bool x\n", "line 1: tag 'bool' does not fit"),
    "yaml-int-tag-empty": ('version: 1\nlora: !!int ""\n', "line 2: tag 'int' does not fit"),
    "yaml-float-tag": ("lora: !!float [1]\n", "line 1: tag 'float' does not fit"),
    "a tag of Python": ("lora: !!python/object/apply:os.system [id]\n", "line 1: tag .* does not fit"),
    "yaml-nested-list-key": ("workloads:\n  ? [[a]]\n  : 1\n", "line 2: expected a plain key"),
    "a mapping as a key": ("workloads: {{a: 1}: 2}\n", "line 1: expected a plain key"),
    "an alias as a key": ("lora: &a b\nworkloads: {*a : 2}\n", "line 2: expected a plain key"),
    "an alias of nothing": ("lora: *a\n", r"line 1: alias \*a of an anchor that is not there"),
    "a version from the future": ("%YAML 1.3\n---\nversion: 1\n", "not valid YAML"),
    "a NUL": ("version: 1\0\n", "not valid YAML"),
    "an escape code": ("version: \x1b[2J\n", "not valid YAML"),
    "line ends of old": ("version: 1\rlora: []\n", "line 1: a carriage return that ends no line"),
    "coefficients that an alias uses": (
        "trained_physics_coefficients: &t {alpha_coeffs: [1, 2, 3]}\nlora: *t\n", "anchor &t is used elsewhere",
    ),
    "defaults that an alias uses": ("defaults: &d {a: {GPU: H100}}\nlora: *d\n", "anchor &d is used elsewhere"),
    "an entry that an alias uses": (
        "defaults:\n  codellama-34b-instruct-hf: &c {GPU: H100}\n  other: *c\n", "anchor &c is used elsewhere",
    ),
    "a tagged list": (
        "trained_physics_coefficients:\n  alpha_coeffs: [!!str 1, 2, 3]\n", "cannot be edited in place; write",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_yaml_that_cannot_be_edited_is_refused_by_line(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "defaults.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(InputError, match=message) as error:
        edit_defaults(path, SET, MODEL)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_tags_that_fit_and_merges_within_an_entry_of_another_are_kept(tmp_path: Path) -> None:
    text = (
        "version: !!str 1\ndefaults:\n  a: &a {GPU: H100, tensor_parallelism: !!int 1, hf_repo: b/c}\n  d: {<<: *a}\n"
    )
    path = tmp_path / "defaults.yaml"
    path.write_text(text)
    assert edit_defaults(path, SET, MODEL).after.startswith(text)


@pytest.mark.parametrize("quoted", ["'9000.5'", "0x1", "1_000"])
def test_numbers_that_blis_would_read_as_something_else_are_written_anew(tmp_path: Path, quoted: str) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(f"trained_physics_coefficients:\n  alpha_coeffs: [{quoted}, 400, 3]\n")
    assert "alpha_coeffs: [9000.5, 400, 3]" in edit_defaults(path, SET).after


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("option", ["--defaults", "--hardware-config"])
def test_never_fifo_or_device(coefficients: Callable[..., Path], tmp_path: Path, option: str) -> None:
    path = coefficients()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (
        ("pipe", "is a FIFO"), ("/dev/zero", "is a device"), ("loop", "loop: "), (".", "is a folder"),
        ("x" * 300, "File name too long"), ("nowhere/x", "nowhere does not exist"),
    ):  # fmt: skip
        for dry in ([], ["--dry-run"]):
            if not (dry and name == "nowhere/x"):
                assert message in fails("export", "blis", path, option, name, *dry).err
    assert {entry.name for entry in tmp_path.iterdir()} == {"coeffs.yaml", "pipe", "loop"}


@pytest.mark.parametrize(
    ("field", "text", "blamed"),
    [
        ("gpu", "''", "coeffs.yaml: gpu"),
        ("gpu", r'"a\nb"', "coeffs.yaml: gpu"),
        ("name", r'"a\e[2Jb"', "coeffs.yaml: model.name"),
        ("beta_coeffs", f"[1{'0' * 29}, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "coeffs.yaml: blis.beta_coeffs"),
        ("beta_coeffs", f"[1{'0' * 400}, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "coeffs.yaml: "),
        ("beta_coeffs", f"[1{'0' * 200}, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "coeffs.yaml: blis.beta_coeffs"),
        ("alpha_coeffs", "[.inf, 1, 1]", "coeffs.yaml: blis.alpha_coeffs"),
        ("schema", "roofml/2", "coeffs.yaml: schema"),
        ("step", "{colour: 1}\nold_step:", "coeffs.yaml: "),
        ("tensor_parallel", '"1"', "coeffs.yaml: tensor_parallel"),
    ],
)
def test_what_is_wrong_with_coefficients_is_said_of_their_file_and_field(
    coefficients: Callable[..., Path], tmp_path: Path, field: str, text: str, blamed: str
) -> None:
    path = coefficients(**{field: text})
    said = fails("export", "blis", path, "--defaults", "defaults.yaml").err
    assert said.startswith(f"roofml: {blamed}")
    assert not (tmp_path / "defaults.yaml").exists()


def test_a_beta_of_30_digits_is_written(tmp_path: Path) -> None:
    model = ModelEntry("m", "H100", 1, "a/m")
    edit = edit_defaults(tmp_path / "x.yaml", BlisCoefficients((1, 2, 3), (1e29, *(1.0,) * 10)), model)
    assert float(strict(edit.after)["trained_physics_coefficients"]["beta_coeffs"][0]) == 1e29


HOSTILE = [
    "a\nb",
    "\x1b[2J",
    "a: b",
    "# x",
    "&a",
    "*a",
    "!!bool",
    "{",
    "- a",
    "'",
    '"',
    "null",
    "1e3",
    "é",
    "a\tb",
    "yes",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_one_scalar_and_one_comment(tmp_path: Path, name: str) -> None:
    export = BlisExport(ModelEntry(name, name, 2, name), SET, 7462, provenance=(f"on 3 requests of {name}",))
    path = tmp_path / "defaults.yaml"
    path.write_text("version: 1\n")
    after = export.edit(path).after
    entry = strict(after)["defaults"][name.lower()]
    assert (entry["GPU"], entry["hf_repo"]) == (name, name)
    assert [line for line in after.splitlines() if line.startswith("# roofml:")] == after.splitlines()[2:4]
    path.write_text(after)
    assert not export.edit(path).changed


ESCAPES = ["../../x", "/abs/x", "..", ".", "", "a/../../b", "C:\\x", "a\0b", "x" * 300, "~", "-o", "a b"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leaves_the_output_folder(tmp_path: Path, name: str) -> None:
    slug = BlisExport(ModelEntry(name, name, 2, "a/b"), SET, 7462).slug
    path = tmp_path / f"{slug}.defaults.yaml"
    assert path.parent.resolve() == tmp_path.resolve()
    assert Path(os.path.normpath(path)) == path
    assert len(path.name) < 240
    assert not slug.startswith((".", "-"))


def test_escape_gpu(coefficients: Callable[..., Path], tmp_path: Path) -> None:
    """Where a folder of the first part is there, `../` had led out of the output folder."""
    out = tmp_path / "out"
    (out / "llama-2-7b-hf-..").mkdir(parents=True)
    path = coefficients(gpu="../../escaped")
    before = {entry for entry in tmp_path.rglob("*") if out not in entry.parents}
    ok("export", "blis", path, "-o", out) if _accepted(path) else fails("export", "blis", path, "-o", out)
    assert {entry for entry in tmp_path.rglob("*") if out not in entry.parents} == before


def _accepted(path: Path) -> bool:
    from roofml.calibration.coefficients import read_coefficients

    try:
        read_coefficients(path)
    except InputError:
        return False
    return True


def test_usual_names_of_files_stay_as_they_are() -> None:
    for name, gpu, slug in (
        ("codellama/CodeLlama-34b-Instruct-hf", "H100", "codellama-34b-instruct-hf-h100-tp2"),
        ("Qwen2.5_7B", "A100-SXM", "qwen2.5_7b-a100-sxm-tp2"),
    ):
        assert BlisExport(ModelEntry(name, gpu, 2, "a/b"), SET, 7462).slug == slug


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not valid JSON: nested too deep"),
        ('{"a": 1}', "a: expected an object, BLIS reads nothing but GPUs"),
        ('{"H100": []}', "H100: expected an object"),
        ('{"H100": {"TFlopsPeak": true}}', "H100: TFlopsPeak is True, but the coefficients"),
        ('{"H100": {"TFlopsPeak": NaN}}', "H100: TFlopsPeak is nan, but the coefficients"),
        ('{"H100": {"TFlopsPeak": 1, "TFlopsPeak": 989.5}}', "key 'TFlopsPeak' is there twice"),
        ('{"H100": {"TFlopsPeak": 1' + "0" * 400 + "}}", "a number of 401 digits"),
    ],
)
def test_a_hardware_config_that_means_harm_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hw.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        edit_hardware(path, "H100", Hardware(989.5, 3.35))


def test_a_file_without_bytes_is_not_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert existing_text(tmp_path / "empty") == ""
    assert existing_text(tmp_path / "missing") is None
