"""The C header and the Rust module say what Python says, and compile without a warning."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commandline import fails, ok
from fitted import a_calibration, a_run

from roofml.export.go.artifact import Artifact, read_artifact
from roofml.export.go.golden import batch_times, made_up_batches
from roofml.export.one_file.files import c_text, rust_text
from roofml.latency.batch import Request

Write = Callable[..., Path]
SERVED = (
    ("meta-llama/Llama-2-7b-hf", "H100", 1),
    ("openai/gpt-oss-20b", "H100", 1),
    ("deepseek-ai/DeepSeek-V4-Flash", "B200", 8),
)
GCC, RUSTC = shutil.which("gcc"), shutil.which("rustc")
HOSTILE = 'x"; system("touch PWNED"); //\n??/ \\ é \u202e'

C_MAIN = """
#include <stdio.h>
#include "roofml.h"

int main(void) {
    long long which, count, tokens, context, prompt;
    while (scanf("%lld %lld", &which, &count) == 2) {
        roofml_step step = {0};
        int refused = 0;
        for (long long i = 0; i < count; i++) {
            if (scanf("%lld %lld %lld", &tokens, &context, &prompt) != 3) return 1;
            refused |= roofml_add(&roofml_calibrations[which], &step, tokens, context, prompt);
        }
        printf("%.17g\\n", refused ? -1.0 : roofml_step_us(&roofml_calibrations[which], &step));
    }
    return roofml_queueing_us(&roofml_calibrations[0], 10) < roofml_queueing_us(&roofml_calibrations[0], -1);
}
"""
RUST_MAIN = """
#[allow(dead_code)]
mod roofml;
use roofml::{Request, CALIBRATIONS};

fn main() {
    let text = std::io::read_to_string(std::io::stdin()).unwrap();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<i64>().unwrap());
    while let (Some(which), Some(count)) = (numbers.next(), numbers.next()) {
        let batch: Vec<Request> = (0..count).map(|_| {
            let mut next = || numbers.next().unwrap();
            Request { new_tokens: next(), context: next(), prompt_tokens: next() }
        }).collect();
        println!("{:.17e}", CALIBRATIONS[which as usize].step_us(&batch).unwrap_or(-1.0));
    }
    assert!(CALIBRATIONS[0].queueing_us(10) >= CALIBRATIONS[0].queueing_us(0));
}
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    made: list[Artifact] = []
    for model, gpu, tp in SERVED:
        run = a_run()
        server = replace(run.server, model=model, gpu=gpu, tensor_parallel=tp)
        path = tmp_path_factory.mktemp("coeffs") / "coeffs.yaml"
        a_calibration([replace(run, server=server, identity="")]).save(path)
        made.append(read_artifact(path))
    return made


def c_program(folder: Path, text: str, main: str = C_MAIN) -> Path:
    (folder / "roofml.h").write_text(text)
    (folder / "main.c").write_text(main)
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(["gcc", *flags, "main.c", "-o", "program", "-lm"], cwd=folder, check=True, timeout=120)
    return folder / "program"


def rust_program(folder: Path, text: str, main: str = RUST_MAIN) -> Path:
    (folder / "roofml.rs").write_text(text)
    (folder / "main.rs").write_text(main)
    subprocess.run(["rustc", "-O", "-D", "warnings", "main.rs", "-o", "program"], cwd=folder, check=True, timeout=240)
    return folder / "program"


LANGUAGES = [
    pytest.param(c_text, c_program, id="c", marks=pytest.mark.skipif(GCC is None, reason="no gcc is here")),
    pytest.param(
        rust_text, rust_program, id="rust", marks=pytest.mark.skipif(RUSTC is None, reason="no rustc is here")
    ),
]


def answers(program: Path, batches: Sequence[tuple[int, Sequence[Request]]]) -> list[float]:
    """What the program says of batches, each of one of its calibrations."""
    lines = [
        " ".join(map(str, [which, len(batch), *(number for request in batch for number in request)]))
        for which, batch in batches
    ]
    done = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60)
    return [float(line) for line in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "program"), LANGUAGES)
def test_step_times_are_those_of_roofml(
    artifacts: list[Artifact],
    tmp_path: Path,
    text: Callable[[list[Artifact]], str],
    program: Callable[[Path, str], Path],
) -> None:
    made = program(tmp_path, text(artifacts))
    for which, artifact in enumerate(artifacts):
        batches = made_up_batches(np.random.default_rng(5), 60)
        found = answers(made, [(which, batch) for batch in batches])
        np.testing.assert_allclose(found, batch_times(artifact.calibration, batches), rtol=1e-9)
    odd: list[list[Request]] = [[], [(0, 1, 1)], [(1, -1, 1)], [(1, 1, -1)], [(2**41, 0, 1)], [(2**39, 2**39, 2**39)]]
    nothing, *refused, largest = answers(made, [(0, batch) for batch in odd])
    assert nothing == 0.0
    assert refused == [-1.0] * 4
    assert largest > 1e9


@pytest.mark.slow
@pytest.mark.parametrize(("text", "program"), LANGUAGES)
def test_a_hostile_name_is_a_string_and_nothing_else(
    artifacts: list[Artifact],
    tmp_path: Path,
    text: Callable[[list[Artifact]], str],
    program: Callable[[Path, str, str], Path],
) -> None:
    calibration = artifacts[0].calibration
    spec = replace(calibration.deployment.model, name=HOSTILE)
    renamed = replace(calibration, deployment=replace(calibration.deployment, model=spec))
    main = {
        "c_program": '#include <stdio.h>\n#include "roofml.h"\n'
        "int main(void) { roofml_step s = {0}; fputs(roofml_calibrations[0].model, stdout);"
        " return roofml_add(roofml_calibrations, &s, 1, 1, 1) + (roofml_step_us(roofml_calibrations, &s) <= 0)"
        " + (roofml_queueing_us(roofml_calibrations, 0) < 0); }\n",
        "rust_program": "#[allow(dead_code)]\nmod roofml;\n"
        'fn main() { print!("{}", roofml::CALIBRATIONS[0].model); }\n',
    }[program.__name__]
    written = text([replace(artifacts[0], calibration=renamed)])
    assert all(each == "\n" or each.isprintable() for each in written)
    made = program(tmp_path, written, main)
    assert subprocess.run([made], cwd=tmp_path, capture_output=True, check=True).stdout.decode() == HOSTILE
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(("command", "name"), [("c", "roofml.h"), ("rust", "roofml.rs")])
def test_a_file_is_written_again_but_never_over_one_that_is_not_ours(
    coefficients: Write, tmp_path: Path, command: str, name: str
) -> None:
    path = coefficients()
    told = ok("export", command, path, "-o", name, "--json").document
    assert told == {"file": name, "calibrations": ["llama-2-7b-hf-h100-tp1"]}
    first = (tmp_path / name).read_bytes()
    ok("export", command, path, "-o", name)
    assert (tmp_path / name).read_bytes() == first
    (tmp_path / name).write_text("mine\n")
    assert "was not written by roofml" in " ".join(fails("export", command, path, "-o", name).err.split())
    assert (tmp_path / name).read_text() == "mine\n"
    assert "given twice" in fails("export", command, path, path, "-o", "other").err
    assert json.loads(json.dumps(sorted(entry.name for entry in tmp_path.iterdir()))) == ["coeffs.yaml", name]
