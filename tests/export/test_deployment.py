"""One deployment and several as files and flags for BLIS."""

import json
import shlex
import subprocess

import pytest
from test_defaults import SET, strict

from roofml.blis.deployment import BlisCoefficients, Hardware
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport, edits_for_several, read_export
from roofml.export.hardware import edit_hardware
from roofml.util.errors import InputError

ENTRY = ModelEntry("CodeLlama-34b-Instruct-hf", "H100", 2, "codellama/CodeLlama-34b-Instruct-hf")
ONE = BlisExport(ENTRY, SET, 26602, 16, 128, 2048, 4096, ("on run a",))
TWO = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf"), SET, 7462)

COEFFICIENTS = """\
schema: roofml/1
model: {name: codellama-34b-instruct-hf, hf_repo: codellama/CodeLlama-34b-Instruct-hf}
gpu: H100
tensor_parallel: 2
fit: {runs: [a, b], requests: 10080, roofml: 0.1.0}
blis:
  alpha_coeffs: [9000.5, 400, 3]
  beta_coeffs: [0.9, 0, 1.3, 1, 12.25, 2, 90, 0, 0, 1.8, 1]
  total_kv_blocks: 26602
"""


def test_flags_carry_coefficients_and_the_measured_kv_blocks():
    assert ONE.command_line() == (
        "--model codellama-34b-instruct-hf --hardware H100 --tp 2 --latency-model trained-physics "
        "--total-kv-blocks 26602 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 "
        "--max-model-len 4096 --alpha-coeffs 9000.5,400,3 --beta-coeffs 0.9,0,1.3,1,12.25,2,90,0,0,1.8,1"
    )


def test_the_defaults_file_says_with_which_flags_it_goes(tmp_path):
    ONE.edit(tmp_path / "defaults.yaml").write()
    text = (tmp_path / "defaults.yaml").read_text()
    assert "# roofml: on run a\n# roofml: run BLIS with: --model codellama-34b-instruct-hf" in text
    assert "--total-kv-blocks 26602" in text
    strict(text)


def test_several_models_get_a_file_each_and_an_index_for_the_shell(tmp_path):
    (tmp_path / "mine.yaml").write_text("version: 1  # mine\n")
    for edit in edits_for_several([ONE, TWO], tmp_path, tmp_path / "mine.yaml"):
        edit.write()
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


def test_a_coefficients_file_says_all_that_blis_needs(tmp_path):
    path = tmp_path / "coeffs.yaml"
    path.write_text(COEFFICIENTS)
    export = read_export(path)
    assert export.coefficients == SET
    assert (export.total_kv_blocks, export.slug) == (26602, "codellama-34b-instruct-hf-h100-tp2")
    assert export.provenance == ("fitted by roofml 0.1.0 from coeffs.yaml", "on 10080 requests of a, b")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("blis:\n", "blis_:\n", "blis: expected a mapping"),
        ("26602", "0", "blis.total_kv_blocks: expected a positive integer, found 0"),
        ("  total_kv_blocks: 26602\n", "", "blis.total_kv_blocks: expected a positive integer, found None"),
        ("[9000.5, 400, 3]", "[9000.5, 400]", "blis: alpha_coeffs: expected at least 3 numbers, found 2"),
        ("0.9,", "-0.9,", r"blis: beta_coeffs\[0\]: expected a finite number >= 0, found -0.9"),
        ("0.9,", ".nan,", r"beta_coeffs\[0\]: expected a finite number"),
        ("0.9,", "yes please,", "blis.beta_coeffs: expected a list of numbers, found 'yes please' in it"),
        ("[9000.5, 400, 3]", "7", "blis.alpha_coeffs: expected a list of numbers, found 7"),
        ("1.8, 1]", "1.8]", None),
        (", 0, 0, 1.8, 1]", "]", "beta_coeffs: expected 10 or 11 numbers, found 7"),
        ("gpu: H100\n", "", "gpu: expected a name, found None"),
        ("tensor_parallel: 2", "tensor_parallel: two", "tensor_parallel: expected a positive integer"),
    ],
)
def test_what_a_coefficients_file_lacks_is_named(tmp_path, old, new, error):
    path = tmp_path / "coeffs.yaml"
    assert old in COEFFICIENTS
    path.write_text(COEFFICIENTS.replace(old, new))
    if error is None:
        assert read_export(path).coefficients.betas[10] == SET.betas[3]
        return
    with pytest.raises(InputError, match=error) as raised:
        read_export(path)
    assert str(path) in str(raised.value)


def test_counts_below_one_are_refused():
    with pytest.raises(InputError, match="max_num_seqs 0"):
        BlisExport(ENTRY, SET, 100, max_num_seqs=0)


def test_only_sets_that_blis_accepts_can_be_made():
    with pytest.raises(InputError):
        BlisCoefficients((1, 2, 3), (1.0,) * 7)
    with pytest.raises(InputError):
        BlisCoefficients((1, 2, float("nan")), (1.0,) * 11)
    assert str(BlisCoefficients.of((-0.0, 1, 2), (-0.0,) * 11).betas[0]) == "0.0"


HARDWARE = """\
{
  "A100-SXM": {"TFlopsPeak":  312.0, "BwPeakTBs": 2.039},
  "H100" : {
    "TFlopsPeak": 989.5, "TFlopsFP8": 1979.0, "BwPeakTBs": 3.35, "mfuPrefill": 0.45}
}
"""


def test_a_gpu_is_added_to_the_hardware_config_and_nothing_else_moves(tmp_path):
    path = tmp_path / "hardware_config.json"
    path.write_text(HARDWARE)
    h200 = Hardware(989.4, 4.8, memory_gib=140.4)
    edit_hardware(path, "H200", h200).write()
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


def test_a_gpu_that_is_there_stays_and_must_have_the_numbers_of_the_fit(tmp_path):
    path = tmp_path / "hardware_config.json"
    path.write_text(HARDWARE)
    assert not edit_hardware(path, "H100", Hardware(989.4, 3.35)).changed
    with pytest.raises(InputError, match=r"H100: BwPeakTBs is 3\.35, but the coefficients were fitted on 4\.8"):
        edit_hardware(path, "H100", Hardware(989.4, 4.8))


@pytest.mark.parametrize("text", ["", "{}", "{ }\n"])
def test_an_empty_hardware_config_is_filled(tmp_path, text):
    path = tmp_path / "hardware_config.json"
    path.write_text(text)
    edit_hardware(path, "H100", Hardware(989.5, 3.35)).write(backup=False)
    assert list(json.loads(path.read_text())) == ["H100"]


@pytest.mark.parametrize(
    ("text", "error"),
    [("{", "not valid JSON"), ("[]", "expected a JSON object"), ('{"a": {}, "a": {}}', "'a' is there twice")],
)
def test_a_hardware_config_that_blis_would_not_read_is_refused(tmp_path, text, error):
    path = tmp_path / "hardware_config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=error):
        edit_hardware(path, "H100", Hardware(989.5, 3.35))
