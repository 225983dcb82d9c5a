"""One deployment and several as files and flags for BLIS."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from blis_defaults import SET, strict
from fitted import a_calibration, a_run, measured_again

from roofml.blis.deployment import BlisCoefficients, Hardware
from roofml.calibration.calibrate import load
from roofml.calibration.coefficients import BlisSection, read_coefficients
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport, read_export
from roofml.export.edit import write_edits
from roofml.export.hardware import edit_hardware
from roofml.export.plan import edits_for_several
from roofml.traces.run import Run, told_apart
from roofml.util.errors import InputError

ENTRY = ModelEntry("CodeLlama-34b-Instruct-hf", "H100", 2, "codellama/CodeLlama-34b-Instruct-hf")
ONE = BlisExport(ENTRY, SET, 26602, 16, 128, 2048, 4096, ("on run a",))
TWO = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf"), SET, 7462)

SECTION = BlisSection(
    alpha_coeffs=list(SET.alphas),
    beta_coeffs=list(SET.betas),
    total_kv_blocks=26602,
    block_size=16,
    max_num_seqs=128,
    max_num_batched_tokens=None,
    max_model_len=None,
)


def named(name: str, later_us: float = 0.0) -> Run:
    """A run of this name, whose answers took so much longer: another recording."""
    run = a_run()
    return measured_again(run, name=name, e2e_us=run.e2e_us + later_us)


def a_file(path: Path, *runs: Run, blis: BlisSection | None = SECTION) -> Path:
    """The coefficients file of a fit of these runs, by default of one named a and one named b."""
    replace(a_calibration(runs or (named("a"), named("b", 1.0))), blis=blis).save(path)
    return path


def test_flags_carry_coefficients_and_the_measured_kv_blocks() -> None:
    assert ONE.command_line() == (
        "--model codellama-34b-instruct-hf --hardware H100 --tp 2 --latency-model trained-physics "
        "--total-kv-blocks 26602 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 "
        "--max-model-len 4096 --alpha-coeffs 9000.5,400,3 --beta-coeffs 0.9,0,1.3,1,12.25,2,90,0,0,1.8,1"
    )


def test_the_defaults_file_says_with_which_flags_it_goes(tmp_path: Path) -> None:
    write_edits([ONE.edit(tmp_path / "defaults.yaml")])
    text = (tmp_path / "defaults.yaml").read_text()
    assert "# roofml: on run a\n# roofml: run BLIS with: --model codellama-34b-instruct-hf" in text
    assert "--total-kv-blocks 26602" in text
    strict(text)


def test_several_models_get_a_file_each_and_an_index_for_the_shell(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1  # mine\n")
    write_edits(edits_for_several([ONE, TWO], tmp_path, tmp_path / "mine.yaml"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "blis-flags.sh", "codellama-34b-instruct-hf-h100-tp2.defaults.yaml", "llama-2-7b-hf-h100-tp1.defaults.yaml",
        "mine.yaml",
    ]  # fmt: skip
    assert (tmp_path / "mine.yaml").read_text() == "version: 1  # mine\n"
    assert (tmp_path / "llama-2-7b-hf-h100-tp1.defaults.yaml").read_text().startswith("version: 1  # mine\n")
    assert not any(edit.changed for edit in edits_for_several([ONE, TWO], tmp_path, tmp_path / "mine.yaml"))
    script = f". {tmp_path}/blis-flags.sh; BLIS_DEFAULTS_FOLDER=/d; blis_flags llama-2-7b-hf-h100-tp1; blis_flags x"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert shlex.split(shell.stdout)[-2:] == ["--defaults-filepath", "/d/llama-2-7b-hf-h100-tp1.defaults.yaml"]
    assert "--total-kv-blocks 7462" in shell.stdout
    assert shell.returncode == 2
    assert "no deployment x, expected one of: codellama-34b-instruct-hf-h100-tp2 llama" in shell.stderr
    with pytest.raises(InputError, match="given twice"):
        edits_for_several([ONE, ONE], tmp_path)


def test_a_coefficients_file_says_all_that_blis_needs(tmp_path: Path) -> None:
    export = read_export(a_file(tmp_path / "coeffs.yaml"))
    assert export.coefficients == SET
    assert (export.total_kv_blocks, export.slug) == (26602, "llama-2-7b-hf-h100-tp1")
    assert export.model == ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf")
    assert (export.block_size, export.max_num_seqs, export.max_model_len) == (16, 128, None)
    assert export.provenance == ("fitted by roofml 0.1.0 from coeffs.yaml", "on 30 requests of a, b")


SCHEMA_SAYS = [
    ("blis:\n", "blis_:\n", "blis_: "),
    ("total_kv_blocks: 26602", "total_kv_blocks: 0", r"blis\.total_kv_blocks: "),
    ("max_num_seqs: 128", "max_num_seqs: 0", r"blis\.max_num_seqs: "),
    ("  total_kv_blocks: 26602\n", "", r"blis\.total_kv_blocks: "),
    ("0.9,", ".nan,", r"blis\.beta_coeffs\.0: "),
    ("0.9,", "-0.9,", r"blis\.beta_coeffs\.0: "),
    ("0.9,", "yes please,", r"blis\.beta_coeffs\.0: "),
    ("[9000.5, 400.0, 3.0]", "7", r"blis\.alpha_coeffs: "),
    ("[9000.5, 400.0, 3.0]", "[9000.5, 400]", r"blis\.alpha_coeffs: "),
    (", 0.0, 0.0, 1.8, 1.0]", "]", r"blis\.beta_coeffs: "),
    ("gpu: H100\n", "", "gpu: "),
    ("tensor_parallel: 1\n", "tensor_parallel: two\n", "tensor_parallel: "),
    ("  rounds: 3\n", "", r"fit\.rounds: "),
    ("schema: roofml/1", "schema: roofml/2", "schema: "),  # coeffs-schema-export
    ("schema: roofml/1", "schema: other/1", "schema: "),
    ("schema: roofml/1\n", "schema: roofml/1\ncolour: red\n", "colour: "),  # coeffs-unknown-key-export
    ("\nstep:", "\nsteps:", "step"),  # coeffs-step-missing-export
]
"""What no coefficients file may be, whoever reads it."""


def edited(path: Path, old: str, new: str) -> Path:
    text = a_file(path).read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_ten_betas_are_as_good_as_eleven(tmp_path: Path) -> None:
    path = edited(tmp_path / "coeffs.yaml", "1.8, 1.0]", "1.8]")
    assert read_export(path).coefficients.betas[10] == SET.betas[3]


@pytest.mark.parametrize(("old", "new", "error"), SCHEMA_SAYS)
def test_there_is_one_reader_of_coefficients(tmp_path: Path, old: str, new: str, error: str) -> None:
    """Export refuses what every other command refuses, in the same words."""
    path = edited(tmp_path / "coeffs.yaml", old, new)
    messages: list[str] = []
    for read in (read_export, read_coefficients):
        with pytest.raises(InputError, match=error) as raised:
            read(path)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path}: ")


def test_a_file_without_a_section_for_blis_says_how_to_get_one(tmp_path: Path) -> None:
    path = a_file(tmp_path / "coeffs.yaml", blis=None)
    with pytest.raises(InputError, match=f"{path}: blis: missing; fit with --target blis"):
        read_export(path)


def test_files_of_runs_of_one_name_keep_their_provenance_apart(tmp_path: Path) -> None:
    """Each says which file and, in it, which recordings: by digest, for both were called the same."""
    one, two = named("run"), named("run", 1e5)
    first, second = (a_file(tmp_path / name, run) for name, run in (("a.yaml", one), ("b.yaml", two)))
    both = a_file(tmp_path / "both.yaml", *told_apart([one, two]))
    assert [read_export(path).provenance for path in (first, second, both)] == [
        ("fitted by roofml 0.1.0 from a.yaml", "on 30 requests of run"),
        ("fitted by roofml 0.1.0 from b.yaml", "on 30 requests of run"),
        ("fitted by roofml 0.1.0 from both.yaml", "on 30 requests of run, run#2"),
    ]
    digests = [read_coefficients(path).fit.run_sha256 for path in (first, second, both)]
    assert digests == [{"run": one.identity}, {"run": two.identity}, {"run": one.identity, "run#2": two.identity}]
    assert one.identity != two.identity
    for path, seen, other in ((first, one, two), (second, two, one)):
        calibration = load(path)
        assert (calibration.pace_of(seen), calibration.pace_of(other)) == (1.003, 1.0)


def test_models_of_two_owners_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    """BLIS knows a model by the last part of its name alone: one of the two would be lost."""
    ours, theirs = (replace(TWO, model=ModelEntry(f"{org}/toy", "H100", 1, f"{org}/toy")) for org in ("orgA", "orgB"))
    with pytest.raises(InputError, match="toy-h100-tp1: given twice; one set of coefficients for a model, GPU and"):
        edits_for_several([ours, theirs], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="max_num_seqs 0"):
        BlisExport(ENTRY, SET, 100, max_num_seqs=0)


def test_only_sets_that_blis_accepts_can_be_made() -> None:
    with pytest.raises(InputError):
        BlisCoefficients((1, 2, 3), (1.0,) * 7)
    for number in (float("nan"), float("inf"), -1.0, 10**400, -(10**400)):
        with pytest.raises(InputError, match=r"alpha_coeffs\[2\]: expected a finite number >= 0, found"):
            BlisCoefficients((1, 2, number), (1.0,) * 11)
    assert str(BlisCoefficients.of((-0.0, 1, 2), (-0.0,) * 11).betas[0]) == "0.0"


HARDWARE = """\
{
  "A100-SXM": {"TFlopsPeak":  312.0, "BwPeakTBs": 2.039},
  "H100" : {
    "TFlopsPeak": 989.5, "TFlopsFP8": 1979.0, "BwPeakTBs": 3.35, "mfuPrefill": 0.45}
}
"""


def test_a_gpu_is_added_to_the_hardware_config_and_nothing_else_moves(tmp_path: Path) -> None:
    path = tmp_path / "hardware_config.json"
    path.write_text(HARDWARE)
    h200 = Hardware(989.4, 4.8, memory_gib=140.4)
    write_edits([edit_hardware(path, "H200", h200)])
    after = path.read_text()
    assert after.startswith(HARDWARE.rstrip().rstrip("}").rstrip() + ',\n  "H200": {')
    assert json.loads(after) == {
        **json.loads(HARDWARE),
        "H200": {
            "TFlopsPeak": 989.4, "TFlopsFP8": 0, "BwPeakTBs": 4.8, "mfuPrefill": 0.45, "mfuDecode": 0.3,
            "MemoryGiB": 140.4,
        },
    }  # fmt: skip
    assert not edit_hardware(path, "H200", h200).changed


def test_a_gpu_that_is_there_stays_and_must_have_the_numbers_of_the_fit(tmp_path: Path) -> None:
    path = tmp_path / "hardware_config.json"
    path.write_text(HARDWARE)
    assert not edit_hardware(path, "H100", Hardware(989.4, 3.35)).changed
    with pytest.raises(InputError, match=r"H100: BwPeakTBs is 3\.35, but the coefficients were fitted on 4\.8"):
        edit_hardware(path, "H100", Hardware(989.4, 4.8))


@pytest.mark.parametrize("text", ["", "{}", "{ }\n"])
def test_an_empty_hardware_config_is_filled(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hardware_config.json"
    path.write_text(text)
    write_edits([edit_hardware(path, "H100", Hardware(989.5, 3.35))], backup=False)
    assert list(json.loads(path.read_text())) == ["H100"]


@pytest.mark.parametrize(
    ("text", "error"),
    [("{", "not valid JSON"), ("[]", "expected a JSON object"), ('{"a": {}, "a": {}}', "'a' is there twice")],
)
def test_a_hardware_config_that_blis_would_not_read_is_refused(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "hardware_config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=error):
        edit_hardware(path, "H100", Hardware(989.5, 3.35))
