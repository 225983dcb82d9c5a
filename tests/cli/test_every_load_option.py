"""Every option of `simulate` and `plan`, each with a value it cannot have: exit status 2, and a message that names it.

The options are those that the commands themselves know: one without a case here fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
from commandline import roofml

from roofml.cli.main import app

pytestmark = pytest.mark.slow

OPEN = "poisson:rate=4,input=300,output=40"
COMMANDS: Any = typer.main.get_command(app)
USUAL = {
    "simulate": ("llama-2-7b-hf", "--gpu", "H100", "--load", f"{OPEN},requests=50"),
    "plan": ("llama-2-7b-hf", "--gpu", "H100", "--load", OPEN, "--slo", "p95 ttft < 5s"),
}
WHOLE = "expected a whole number above 0"
BAD: dict[str, list[tuple[str, str]]] = {
    "--load": [("nowhere", "load 'nowhere': no such file or folder; expected a run"), ("poisson:rate=1", "missing")],
    "--gpu": [("H1000", "gpu 'H1000': not in hardware/"), ("", "--gpu")],
    "--model": [("other", "MODEL is llama-2-7b-hf and --model other: expected one of them")],
    "--tp": [("0", "--tp"), ("x", "--tp"), ("3", "does not divide by tensor parallel size 3")],
    "--max-num-seqs": [("0", "--max-num-seqs"), ("x", "--max-num-seqs")],
    "--max-num-batched-tokens": [("0", "--max-num-batched-tokens"), ("x", "--max-num-batched-tokens")],
    "--block-size": [("0", f"--block-size: 0, {WHOLE}"), ("x", "Invalid value for '--block-size'")],
    "--num-gpu-blocks": [("0", f"--num-gpu-blocks: 0, {WHOLE}"), ("x", "Invalid value for '--num-gpu-blocks'")],
    "--max-model-len": [("0", f"--max-model-len: 0, {WHOLE}"), ("100", "340 tokens exceed max_model_len 100")],
    "--engine": [("ollama", "--engine: 'ollama', expected one of vllm, sglang, tensorrt-llm")],
    "--engine-version": [("new", "--engine-version: 'new', expected a version such as 0.15.1")],
    "--kv-dtype": [("int3", "--kv-dtype: 'int3', expected one of auto, bfloat16, float16, fp8")],
    "--server-arg": [
        ("x", "--server-arg 'x': expected NAME=VALUE"),
        ("colour=red", "--server-arg: 'colour': no setting that is known here, expected one of"),
    ],
    "--output-tokens": [("0", f"--output-tokens: 0, {WHOLE}"), ("9", "--output-tokens: corrects a recorded run, and")],
    "--deadline": [("-1", "--deadline: -1.0, expected seconds above 0"), ("9", "--deadline: corrects a recorded run")],
    "--server": [("nowhere", "nowhere: no such file or folder")],
    "--coeffs": [("nowhere.yaml", "nowhere.yaml: no such file")],
    "--catalog": [("nowhere", "--catalog nowhere: no catalogue")],
    "--slo": [
        ("p95", "--slo 'p95': expected an SLO such as"),
        ("p9 ttft < 1s", "--slo 'p9 ttft < 1s': 'p9': expected"),
    ],
    "--rate": [("0", "--rate 0: expected requests"), ("nan", "--rate nan"), ("x", "Invalid value for '--rate'")],
    "--precision": [("fp7", "precision 'fp7': expected one of bf16, fp8")],
    "--plot": [
        ("nowhere/x.png", "nowhere/x.png: folder"),
        ("x.mp4", "--plot 'x.mp4': expected a name that ends in png, svg"),
    ],
    "--concurrency": [("0", "--concurrency 0: expected clients from 1"), ("x", "Invalid value for '--concurrency'")],
    "--requests": [("0", "--requests 0: expected from 1"), ("1.5", "Invalid value for '--requests'")],
    "--seed": [("-1", "Invalid value for '--seed'"), ("x", "Invalid value for '--seed'")],
    "--replicas": [("0", "0 replicas: expected 1 to 1000"), ("x", "Invalid value for '--replicas'")],
    "--router": [("random", "random")],
    "--prefill-gpu": [("H1000", "gpu 'H1000': not in hardware/")],
    "--prefill-tp": [("0", "Invalid value for '--prefill-tp'"), ("x", "Invalid value for '--prefill-tp'")],
    "--prefill-replicas": [("2", "--decode-replicas missing: prefill and decode servers need each other")],
    "--decode-replicas": [("2", "--prefill-replicas missing: prefill and decode servers need each other")],
    "--link": [("0", "--link"), ("nan", "--link"), ("x", "Invalid value for '--link'")],
    "--price": [
        ("H100", "--price 'H100': expected GPU=PRICE OF AN HOUR, such as H100=2.5"),
        ("H100=0", "--price 'H100=0': expected a price above 0"),
        ("H100=-2", "--price 'H100=-2': expected GPU=PRICE"),
        ("H1000=2", "gpu 'H1000': not in hardware/"),
    ],
}
"""Option -> values that say nothing, each with part of what is then said."""
APART = ("--prefill-replicas", "1", "--decode-replicas", "1")
BESIDE = {
    ("simulate", "--router"): ("--replicas", "2"),
    ("simulate", "--prefill-gpu"): APART,
    ("simulate", "--prefill-tp"): APART,
    ("simulate", "--link"): APART,
    ("plan", "--link"): ("--disaggregated", "--rate", "9"),
}
"""Options that say something beside others alone."""


def options() -> list[tuple[str, str]]:
    """(command, option) for all that take a value; a flag has none that is wrong."""
    return [
        (command, parameter.opts[0])
        for command in USUAL
        for parameter in COMMANDS.commands[command].params
        if parameter.param_type_name == "option" and not parameter.is_flag
    ]


@pytest.mark.parametrize(("command", "option"), options())
def test_each_option(command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for value, message in BAD[option]:
        result = roofml(command, *USUAL[command], *BESIDE.get((command, option), ()), option, value)
        assert result.status == 2, (value, result.out)
        assert message in result.err
        assert result.out == ""
    assert not list(tmp_path.iterdir())


def test_what_goes_with_nothing_else() -> None:
    closed = "closed:concurrency=2,input=9,output=9"
    sessions = "poisson:rate=1,input=9,output=9,turns=3"
    told = {
        ("simulate", "--rate", "1", "--load", closed): "closed loop, whose rate is its server's answer",
        ("simulate", "--rate", "1", "--concurrency", "2"): "--rate and --concurrency: a load is open or closed",
        ("simulate", "--concurrency", "2", "--load", sessions): "is of sessions, which begin at a rate",
        ("plan", "--price", "H100=1", "--price", "h100=2"): "--price 'h100=2': H100 has a price already",
        ("plan", "--slo", "p95 ttft < 6s"): "p95 ttft has a limit already",
        ("plan", "--link", "50"): "--link: expected --disaggregated beside it",
        ("plan", "--disaggregated"): "--disaggregated: expected --rate",
        ("simulate", "--link", "50"): "--link: expected --prefill-replicas and --decode-replicas beside it",
        ("simulate", "--router", "least loaded"): "--router: expected --replicas",
        ("simulate", "--replicas", "2", *APART): "--replicas beside --prefill-replicas",
    }
    for (command, *arguments), message in told.items():
        result = roofml(command, *USUAL[command], *arguments)
        assert result.status == 2
        assert message in result.err


def test_a_price_that_nobody_asked_for_is_told() -> None:
    result = roofml("plan", *USUAL["plan"], "--price", "L40S=1")
    assert result.status == 0
    assert "--price L40S: no candidate has this GPU" in result.err
    assert "no price of H100: listed last" in result.err
