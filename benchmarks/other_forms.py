"""What the forms of other tools lose against our times: the tables of docs/exports.md.

    python benchmarks/other_forms.py [COEFFS ...]
    python benchmarks/other_forms.py --rows COEFFS RUN ...

The first: of every fit (by default those that the package ships), how far the form of each export is from our times,
at 1024 prompt and 256 output tokens on average; and, with `pip install --no-deps ai-dynamo ai-dynamo-runtime msgspec`,
what Dynamo's real mocker makes of its profile in closed loops, beside our replay of the same; with
`pip install aiconfigurator-core` what AIConfigurator's own engine makes of its system folder, beside our step times.

The second: on the last 40 % of each run's requests, how far off are a predictor that learned from the rows of the first
60 % (extra `baselines`: the trees that llm-d's latency predictor grows, with its defaults), and our replay.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from roofml.engine.replay import replay
from roofml.export.aiconfigurator import export_aiconfigurator, system_name
from roofml.export.decode_steps import step_us
from roofml.export.dynamo import export_dynamo
from roofml.export.exported import Exported
from roofml.export.latency_predictor import LEARNED, rows_of
from roofml.export.llm_d_sim import export_llm_d_sim
from roofml.export.model_tuner import export_model_tuner
from roofml.export.subject import Subject, read_subject
from roofml.traces.server import ServerOverrides
from roofml.util.errors import NotSupportedError
from roofml.util.package_data import data_folder
from roofml.workloads.load import closed_load

NOWHERE = Path("nowhere")
CLIENTS = (1, 8, 32, 64)
LENGTHS = (512, 128), (1024, 256)
ROUNDS = 8


def forms(paths: list[Path]) -> None:
    """Print how far each form is off, a row for each thing that it says."""
    print("| fit | form | of | points | median | worst | mean |\n|---|---|---|---:|---:|---:|---:|", flush=True)
    for path in paths:
        subject = read_subject([path], ServerOverrides())
        for name, exported in (
            ("llm-d-sim", export_llm_d_sim(subject, NOWHERE)),
            ("model-tuner", export_model_tuner(subject, NOWHERE)),
            ("dynamo", export_dynamo(subject, NOWHERE)),
            ("dynamo --disaggregated", export_dynamo(subject, NOWHERE, aggregated=False)),
            *_system(subject),
        ):
            for loss in exported.losses:
                figures = f"{loss.points} | {loss.median_pct:.1f} % | {loss.worst_pct:.1f} % | {loss.mean_pct:+.1f} %"
                print(f"| {path.stem} | {name} | {loss.what} | {figures} |", flush=True)


def _system(subject: Subject) -> list[tuple[str, Exported]]:
    """That of AIConfigurator, where one is written."""
    try:
        return [("aiconfigurator", export_aiconfigurator(subject, NOWHERE))]
    except NotSupportedError:
        return []


def mocker(paths: list[Path]) -> None:
    """Print what the real mocker makes of its profile, a row for each closed loop."""
    print("\n| fit | clients | tokens | E2E | TPOT | TTFT |\n|---|---:|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            subject = read_subject([path], ServerOverrides(prefix_caching=False))
            export_dynamo(subject, Path(folder) / path.stem).write()
            for clients in CLIENTS:
                for prompt, output in LENGTHS:
                    theirs = _mocked(subject, Path(folder) / path.stem / "perf_data.npz", clients, prompt, output)
                    ours = _replayed(subject, clients, prompt, output)
                    errors = " | ".join(f"{100 * (t / o - 1):+.1f} %" for t, o in zip(theirs, ours, strict=True))
                    print(f"| {path.stem} | {clients} | {prompt}x{output} | {errors} |", flush=True)


def _mocked(subject: Subject, profile: Path, clients: int, prompt: int, output: int) -> tuple[float, float, float]:
    """Mean E2E, TPOT and TTFT, ms, of Dynamo's mocker."""
    core: Any = importlib.import_module("dynamo._core")
    config: Any = importlib.import_module("dynamo.mocker.config")
    server = subject.server
    engine = {
        "timing_model": {"type": "external", "provider": "dynamo_profile", "config": {"path": str(profile)}},
        "num_gpu_blocks": server.num_gpu_blocks,
        "block_size": server.block_size,
        "max_num_seqs": server.max_num_seqs,
        "max_num_batched_tokens": server.max_num_batched_tokens,
        "max_model_len": server.max_model_len,
        "enable_prefix_caching": False,
    }
    summary = core.run_mocker_synthetic_trace_replay(
        prompt,
        output,
        ROUNDS * clients,
        extra_engine_args=config.normalize_mocker_config({"engine": engine}),
        replay_concurrency=clients,
    ).summary
    return summary["mean_e2e_latency_ms"], summary["mean_tpot_ms"], summary["mean_ttft_ms"]


def _replayed(subject: Subject, clients: int, prompt: int, output: int) -> tuple[float, float, float]:
    """The same of our replay."""
    count = ROUNDS * clients
    run = closed_load("loop", clients, np.full(count, prompt), np.full(count, output)).run(subject.server)
    calibration = subject.calibration
    served = replay(run, calibration.deployment.serving(run.server).tables, calibration.parameters)
    tpot = (served.e2e_us - served.ttft_us) / (output - 1)
    return tuple(float(times.mean()) / 1e3 for times in (served.e2e_us, tpot, served.ttft_us))  # type: ignore[return-value]


def aiconfigurator(paths: list[Path]) -> None:
    """Print what AIConfigurator's own engine makes of the system folder, the worst of each kind of step."""
    engine: Any = importlib.import_module("aiconfigurator_core.sdk.engine")
    print("\n| fit | decodes, worst | prompts, worst | both, worst |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            subject = read_subject([path], ServerOverrides())
            try:
                export_aiconfigurator(subject, Path(folder) / path.stem).write()
            except NotSupportedError as error:
                print(f"| {path.stem} | refused: {error} | | |", flush=True)
                continue
            root = Path(folder) / path.stem
            (version,) = (each.name for each in root.glob("data/*/gemm/vllm/*"))
            handle = engine.EngineHandle.compile(
                str(data_folder("model_configs") / subject.deployment.model.name),
                system_name(subject),
                "vllm",
                backend_version=version,
                tp_size=subject.deployment.tp,
                systems_path=str(root),
            )
            times = step_us(subject, budget=8192)
            decodes = [
                handle.predict_decode_latency(b, c) / (times(b, c)[0] / 1e3) - 1
                for b in (1, 8, 20, 64, 100, 128)
                for c in (128, 777, 1024)
            ]
            prompts = [
                handle.predict_prefill_latency(b, s) / (times(0, 0, s, 0, b)[0] / 1e3) - 1
                for b, s in ((1, 200), (1, 1024), (1, 1900), (1, 3000), (4, 300), (8, 1000))
            ]
            both = [
                handle.mixed_step_latency(new, b, isl, osl) / (times(b, isl + osl // 2, new)[0] / 1e3) - 1
                for new, b, isl, osl in ((512, 32, 1024, 256), (1024, 64, 1024, 256), (256, 100, 512, 128))
            ]
            worst = " | ".join(f"{100 * np.abs(each).max():.2f} %" for each in (decodes, prompts, both))
            print(f"| {path.stem} | {worst} |", flush=True)


def rows(coeffs: Path, runs: list[Path]) -> None:
    """Print the median error of a request's TTFT and TPOT: trees that learned from the rows, and our replay."""
    xgboost: Any = importlib.import_module("xgboost")
    figures = "TTFT | TPOT | mean TTFT | mean TPOT"
    print(f"| run | requests | trees: {figures} | our replay: {figures} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for path in runs:
        subject = read_subject([coeffs, path], ServerOverrides())
        assert subject.run is not None
        served = subject.calibration.replay(subject.run)
        measured, ours = rows_of(subject.run, served), rows_of(subject.run, served, predicted=True)
        cut, cells = int(LEARNED * len(measured)), list[str]()
        features, names = measured.features(), ("actual_ttft_ms", "actual_tpot_ms")
        truth = [getattr(measured, name)[cut:] for name in names]
        guesses: list[Any] = []
        for name in names:
            trees = xgboost.XGBRegressor(n_estimators=200, max_depth=6, learning_rate=0.05, random_state=0, n_jobs=1)
            guesses.append(trees.fit(features[:cut], getattr(measured, name)[:cut]).predict(features[cut:]))
        for found in (guesses, [getattr(ours, name)[cut:] for name in names]):
            cells += [f"{100 * np.median(np.abs(g / t - 1)):.1f} %" for g, t in zip(found, truth, strict=True)]
            cells += [f"{100 * (g.mean() / t.mean() - 1):+.1f} %" for g, t in zip(found, truth, strict=True)]
        print(f"| {path.name} | {len(measured) - cut} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--rows", action="store_true")
    options = parser.parse_args()
    if options.rows:
        rows(options.paths[0], options.paths[1:])
        return
    shipped = sorted(path for path in data_folder("coeffs").glob("*.yaml") if path.stem != "global")
    paths = options.paths or shipped
    forms(paths)
    if importlib.util.find_spec("dynamo") is not None:
        mocker(paths)
    if importlib.util.find_spec("aiconfigurator_core") is not None:
        aiconfigurator(paths)


if __name__ == "__main__":
    main()
