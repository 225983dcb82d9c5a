"""Targets: whole command lines, in this process, on a folder of files of which some are changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from roofml.cli.main import app

from . import seeds
from .answers import OUTPUTS, Situation, take
from .making import mutate_file, rendered
from .mutation import NUMBERS, TEXTS
from .rendering import as_json
from .target import Target

# What each command works on.


def _run_files(random: Random, requests: Sequence[int] = (20, 40)) -> dict[str, Any]:
    files: dict[str, Any] = {
        **{
            "run/trace.yaml": seeds.header(),
            "run/trace.csv": seeds.trace(random.choice(requests), random.randrange(8)),
        },
        **{"run/exp-config.yaml": seeds.exp_config(), "run/kv-cache.yaml": seeds.kv_cache()},
    }
    if random.random() < 0.3:
        files["run/inference-perf.yaml"] = seeds.inference_perf()
    return files


def _doctor(random: Random) -> Situation:
    files = _run_files(random)
    arguments = ["doctor", "run"]
    if random.random() < 0.3:
        files["steps.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in seeds.otlp(4))
        arguments.append("steps.jsonl")
    return Situation([*arguments, *_output_kind(random)], files)


def _output_kind(random: Random) -> list[str]:
    return random.choice((["--json"], ["--json"], [], ["--quiet"]))


def _inspect(random: Random) -> Situation:
    files: dict[str, Any] = {"model/config.json": _some_model(random)}
    gpu, sheet = _some_gpu(random)
    arguments = ["inspect", "model", "--gpu", gpu, "--tp", random.choice(("1", "2", "4", "8"))]
    return Situation([*arguments, *_output_kind(random)], files | sheet)


def _some_gpu(random: Random) -> tuple[str, dict[str, Any]]:
    """A GPU of the package, or a sheet of one's own."""
    if random.random() < 0.5:
        return random.choice(("H100", "h200", "B200", "A100-SXM", "L40S", "L4")), {}
    return "sheet.yaml", {"sheet.yaml": random.choice(seeds.sheets())}


def _some_model(random: Random) -> dict[str, Any]:
    return seeds.model_config(random.choice(list(seeds.model_texts())))


def _predict(random: Random) -> Situation:
    files: dict[str, Any] = {}
    gpu, tp = random.choice(("H100", "H200", "B200", "B200")), random.choice(("1", "2", "4", "8", "8"))
    if random.random() < 0.4:
        model, gpu, tp = seeds.LOCAL_MODEL, "H100", "1"
        files["coeffs.yaml"] = seeds.coefficients_of(1)
    else:
        model = "model"
        files["model/config.json"] = _some_model(random)
    arguments = [
        "predict",
        model,
        "--gpu",
        gpu,
        "--tp",
        tp,
        *(("--coeffs", "coeffs.yaml") if "coeffs.yaml" in files else ()),
    ]
    if random.random() < 0.7:
        arguments += ["--decode", f"{random.choice((0, 1, 300, 700, 2000, 9000))}x{random.choice((1, 4, 16, 64, 512))}"]
    if random.random() < 0.5 or "--decode" not in arguments:
        arguments += ["--prefill", f"{random.choice((1, 16, 512, 8192))}@{random.choice((0, 560, 3000))}"]
    return Situation([*arguments, *_output_kind(random)], files)


def _replay(random: Random) -> Situation:
    files = _run_files(random)
    arguments = ["replay", "run", *random.choice(([], ["--gpu", "H100"]))]
    if random.random() < 0.6:
        files["coeffs.yaml"] = seeds.coefficients_of(1)
        arguments += ["--coeffs", "coeffs.yaml"]
    arguments += random.choice(([], ["-o", "out/requests.csv"]))
    return Situation([*arguments, *_output_kind(random)], files)


def _export(random: Random) -> Situation:
    files: dict[str, Any] = {"coeffs.yaml": seeds.coefficients_of(random.choice((1, 1, 2)))}
    arguments = ["export", "blis"]
    if random.random() < 0.2:
        files |= {"other.yaml": seeds.coefficients_of(4), "out/blis-flags.sh": seeds.FLAGS_INDEX}
        return Situation([*arguments, "coeffs.yaml", "other.yaml", "-o", "out", *_output_kind(random)], files)
    if random.random() < 0.15:
        arguments += ["--derive", random.choice(list(seeds.model_texts())), "--gpu", "H100", "--tp", "2"]
        del files["coeffs.yaml"]
    else:
        arguments.append("coeffs.yaml")
    if random.random() < 0.6:
        files["defaults.yaml"] = seeds.DEFAULTS.encode()
        arguments += ["--defaults", "defaults.yaml", *random.choice(([], ["--replace"]))]
    else:
        arguments += ["-o", "out"]
    if random.random() < 0.5:
        files["hardware_config.json"] = json.loads(json.dumps(seeds.HARDWARE_CONFIG))
        arguments += ["--hardware-config", "hardware_config.json"]
    arguments += random.choice(([], [], ["--dry-run"], ["--flags"], ["--no-backup"]))
    return Situation([*arguments, *_output_kind(random)], files)


def _evaluate(random: Random) -> Situation:
    files = _run_files(random) | {"coeffs.yaml": seeds.coefficients_of(1)}
    arguments = ["evaluate", "run", "--coeffs", "coeffs.yaml"]
    if random.random() < 0.3:
        arguments += ["--train-fraction", random.choice(("0", "0.5", "0.9", "0.99"))]
    return Situation([*arguments, *_output_kind(random)], files)


def _fit(random: Random) -> Situation:
    files = _run_files(random, (20, 30, 45, 60))
    arguments = ["fit", "run", "--gpu", "H100", "-o", "out/coeffs.yaml", "--json"]
    if random.random() < 0.1:
        arguments += ["--prior", "package"]
    if random.random() < 0.15:
        files["run.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in seeds.otlp(30))
        arguments += ["--steps", "run.jsonl", *random.choice(([], ["--steps-only"]))]
    if random.random() < 0.1:
        arguments += ["--train-fraction", random.choice(("0.5", "0.1", "1"))]
    return Situation(arguments, files)


def _other(random: Random) -> Situation:
    """The other commands, on files that they refuse, so that only their options are tried."""
    arguments = random.choice(
        (
            *(["evaluate", "missing", "--gpu", "H100"], ["leaderboard", "missing", "--gpu", "H100", "-o", "out/b.md"]),
            *(["identify", "missing", "--gpu", "H100"], ["pool", "missing", "--gpu", "H100", "-o", "out/g.yaml"]),
            *(
                ["bench", "import", "--gpu", "H100", "-o", "out", "--from", "missing"],
                ["pull", "a/b"],
                ["doctor", "missing"],
            ),
            *(["fit", "missing", "--gpu", "H100"], ["bench", "measure", "llama-2-7b-hf", "--gpu", "H100", "-o", "out"]),
        )
    )
    return Situation(list(arguments), {})


# Changes.


@cache
def _options(*names: str) -> list[tuple[str, bool]]:
    """(option, whether it takes a value) of a command."""
    import typer.main

    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    found: list[tuple[str, bool]] = []
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found += [(name, not parameter.is_flag) for name in (*parameter.opts, *parameter.secondary_opts)]
    return found


VALUES = (
    "0",
    "1",
    "2",
    "-1",
    "3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1000000000000",
    "9" * 400,
    "H100",
    "run",
    "out",
    "x.yaml",
)
PLACES = (
    "out/x",
    "out",
    "missing/x",
    "run/trace.csv",
    "run",
    "coeffs.yaml",
    "/dev/null",
    "/dev/full",
    "out/x.png",
    "x",
    "-",
    "",
)
"""Where outputs could go: never outside of the folder."""
NEVER = ("--help", "--version", "--blis", "--verify", "--cache", "--seconds", "--device")


def _mutate_arguments(arguments: list[str], random: Random) -> None:
    """Another value, an option more, a word less."""
    fixed = 2 if arguments[0] in ("export", "bench") else 1
    kind = random.randrange(4)
    place = random.randrange(fixed, len(arguments)) if len(arguments) > fixed else fixed
    outputs = place > 0 and arguments[place - 1] in OUTPUTS
    if kind == 0 and place < len(arguments):
        arguments[place] = random.choice(PLACES) if outputs else _word(arguments[place], random)
    elif kind == 1 and place < len(arguments) and not outputs and arguments[place] not in ("-o", "--output"):
        del arguments[place]
    else:
        option, takes_value = random.choice(_options(*arguments[:fixed]))
        if option in NEVER:
            return
        value = random.choice(PLACES) if option in OUTPUTS else _word("", random)
        arguments += [option, value] if takes_value else [option]


def _word(word: str, random: Random) -> str:
    kind = random.randrange(5)
    if kind == 0:
        return random.choice(TEXTS)
    if kind == 1:
        return str(random.choice(NUMBERS))
    if kind == 2 and word and not word.startswith("-"):
        return word + random.choice(("0", "x", " ", "\n", "@1", "/"))
    return random.choice(VALUES)


def _making(
    base: Callable[[Random], Situation], arguments_share: float
) -> Callable[[Random, tuple[Random, ...]], Situation]:
    def make(random: Random, steps: tuple[Random, ...]) -> Situation:
        situation = base(random)
        for step in steps:
            if not situation.files or step.random() < arguments_share:
                _mutate_arguments(situation.arguments, step)
            else:
                name = step.choice(list(situation.files))
                mutate_file(situation.files, name, step, bytes_share=0.08)
        return situation

    return make


def _files(situation: Situation) -> Mapping[str, bytes]:
    kept = {name.replace("/", "__"): rendered(name, content) for name, content in situation.files.items()}
    return kept | {"arguments.json": as_json(situation.arguments)}


def _target(
    name: str, base: Callable[[Random], Situation], most_s: float, share: float, arguments_share: float = 0.3
) -> Target:
    return Target(name, _making(base, arguments_share), take, _files, most_s, share)


COMMANDS: tuple[Target, ...] = (
    _target("doctor", _doctor, 10, 2.5),
    _target("inspect", _inspect, 10, 2),
    _target("predict", _predict, 10, 2),
    _target("replay", _replay, 20, 2),
    _target("evaluate", _evaluate, 20, 1.5),
    _target("export", _export, 10, 1.5),
    _target("options", _other, 10, 1, arguments_share=1.0),
)
FITS: tuple[Target, ...] = (_target("fit", _fit, 120, 1, arguments_share=0.1),)
