"""What other planners answer to the questions of `benchmarks/peers_plan.py`, which runs this file, with an interpreter
that has them (`pip install aiconfigurator-core 'llm-d-planner[estimation]'`). It needs nothing of roofml.

Questions come as JSON on standard input, a list for each peer, and go as JSON to standard output: for each peer its
version, or why it cannot be asked, and an answer to each question. Latencies are in ms, rates in requests a second.

Each is asked as its own documentation says, and in its favour where there is a choice:

- aiconfigurator-core: an aggregated operating point (`run_agg`, what `aiconfigurator cli estimate` prints) at the mean
  number of requests in flight that was measured, with the cached part of the prompts as `prefix`; the largest rate is
  that of the largest batch, up to the server's, whose TPOT is below the limit.
- llm-d-planner: its recommendation for the model, GPU and traffic profile, from the benchmarks it is shipped with, of
  the profile nearest to the load: the row of the largest rate that meets the limits. KV tokens are
  what its capacity planner's memory for them holds, which is given the number of weights it would read on the Hub; its
  own `total_kv_cache_blocks` is as many times that as there are ranks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

Answer = dict[str, Any]
SYSTEMS = {"H100": "h100_sxm", "H200": "h200_sxm", "B200": "b200_sxm", "RTX-PRO-6000": "rtx_pro_6000_server"}
BACKEND = "vllm"
NO_LIMIT = 10_000_000
"""ms; what every row meets."""
PERCENTILES = ("mean", "p90", "p95", "p99")
PROFILES = ((512, 256), (1024, 1024), (4096, 512), (10240, 1536))
"""Prompt and output tokens of the loads that llm-d-planner has benchmarks of (its `data/configuration`)."""


class AiConfigurator:
    """Static operating points of aiconfigurator-core, of kernels measured one by one."""

    package = "aiconfigurator-core"

    def __init__(self) -> None:
        self.parts = {
            name: importlib.import_module(f"aiconfigurator_core.sdk.{name}")
            for name in ("backends.factory", "config", "config_builders", "models", "perf_database", "memory")
        }

    def answer(self, question: Mapping[str, Any]) -> Answer:
        """Mean TTFT, TPOT and E2E, the rate and throughput, the largest rate, and KV tokens. Raises what it raises."""
        self.database = self._database(question)
        try:
            self.model = self._model(question, question.get("ep", 1) > 1)
        except ValueError:
            self.model = self._model(question, True)  # blocks of scales that do not divide by the ranks
        found = self._point(question, max(1, round(question["in_flight"])))
        if question.get("tpot_limit_ms"):
            found["max_rate"] = self._largest(question)
        if question.get("memory_utilization"):
            found["kv_tokens"] = self._kv_tokens(question)
        return found

    def _model(self, question: Mapping[str, Any], dealt: bool) -> Any:
        """The model on its ranks, with experts dealt to them or each cut into as many parts."""
        sdk, ranks = self.parts["models"], question["tp"]
        parts = (1, ranks) if dealt else (ranks, 1)
        if not sdk.check_is_moe(question["model"]):
            parts = (None, None)
        config = self.parts["config_builders"].build_model_config(ranks, 1, 1, *parts)
        return sdk.get_model(question["model"], config, BACKEND)

    def _database(self, question: Mapping[str, Any]) -> Any:
        data, system = self.parts["perf_database"], SYSTEMS[question["gpu"]]
        version = data.get_latest_database_version(system=system, backend=BACKEND)
        return data.get_database_view(system, BACKEND, version)

    def _point(self, question: Mapping[str, Any], batch: int) -> Answer:
        prompt = round(question["input_tokens"])
        load = self.parts["config"].RuntimeConfig(
            isl=prompt,
            osl=round(question["output_tokens"]),
            batch_size=batch,
            prefix=min(round(question.get("cached_tokens", 0)), prompt - 1),
        )
        backend = self.parts["backends.factory"].get_backend(BACKEND)
        summary = backend.run_agg(self.model, self.database, load, ctx_tokens=prompt)
        point = summary.get_result_dict()
        return {
            "ttft_mean": float(point["ttft"]),
            "tpot_mean": float(point["tpot"]),
            "e2e_mean": float(point["request_latency"]),
            "rate": float(point["seq/s"]),
            "output_tokens_per_s": float(point["tokens/s"]),
            "does_not_fit": bool(summary.check_oom()),
            "said": f"at {batch} in flight",
        }

    def _largest(self, question: Mapping[str, Any]) -> float | None:
        """Between the largest batch below the limit and the next, where its TPOT reaches it."""
        limit, last = question["tpot_limit_ms"], None
        for batch in range(1, question["max_num_seqs"] + 1):
            point = self._point(question, batch)
            if point["tpot_mean"] >= limit:
                if last is None:
                    return None
                share = (limit - last["tpot_mean"]) / (point["tpot_mean"] - last["tpot_mean"])
                return last["rate"] + share * (point["rate"] - last["rate"])
            last = point
        return None if last is None else last["rate"]

    def _kv_tokens(self, question: Mapping[str, Any]) -> int:
        experts = self.parts["models"].check_is_moe(question["model"])
        estimate = self.parts["memory"].estimate_kv_cache(
            question["model"],
            SYSTEMS[question["gpu"]],
            BACKEND,
            self.database.version,
            max_num_tokens=question["max_num_batched_tokens"],
            max_batch_size=question["max_num_seqs"],
            memory_fraction_kind="of_total",
            memory_fraction_value=question["memory_utilization"],
            tp_size=question["tp"],
            moe_tp_size=question["tp"] if experts else None,
            moe_ep_size=1 if experts else None,
        )
        return int(estimate["total_kv_size_tokens"])


class LlmDPlanner:
    """Rows of the benchmarks that llm-d-planner is shipped with."""

    package = "llm-d-planner"

    def __init__(self) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # else it tries a Hub that cannot be reached for a minute, each time
        sdk = importlib.import_module("planner")
        self.planner, self.intent = sdk.Planner(), sdk.DeploymentIntent
        self.planner.load_bundled_benchmarks()
        shipped = importlib.import_module("planner.data._resolver").data_path("performance/benchmarks_BLIS.json")
        benchmarks = importlib.import_module("planner.knowledge_base.benchmarks")
        self.benchmarks = benchmarks.BenchmarkRepository.from_files(shipped, db_path=":memory:")
        self.capacity = importlib.import_module("planner.capacity_planner")

    def answer(self, question: Mapping[str, Any]) -> Answer:
        """Mean, p90, p95 and p99 of its row, the largest rate under the limit, servers for the rate, and KV tokens."""
        found: Answer = {"kv_tokens": self._kv_tokens(question)}
        row = self._row(question, NO_LIMIT)
        if row is None:
            return {**found, "said": "its benchmarks have neither the model nor one of its shape on these GPUs"}
        for percentile in PERCENTILES:
            found |= {
                f"ttft_{percentile}": getattr(row, f"ttft_{percentile}"),
                f"tpot_{percentile}": getattr(row, f"itl_{percentile}"),
                f"e2e_{percentile}": getattr(row, f"e2e_{percentile}"),
            }
        found["said"] = f"{row.model_hf_repo} at {row.requests_per_second:g}/s, the largest rate it has"
        found["servers"] = self._servers(question, row.model_hf_repo)
        within = self._row(question, question["tpot_limit_ms"])
        found["max_rate"] = None if within is None else within.requests_per_second
        return found

    def _row(self, question: Mapping[str, Any], tpot_limit_ms: float) -> Any:
        """Of the model, or of the one that stands for it, on so many GPUs of the kind: the largest rate."""
        prompt, output = _profile(question)
        rows = self.benchmarks.find_configurations_meeting_slo(
            prompt, output, NO_LIMIT, tpot_limit_ms, NO_LIMIT, percentile="mean", gpu_types=[question["gpu"]]
        )
        names = [name.lower() for name in question["stand_ins"]]
        ours = [row for row in rows if row.model_hf_repo in names and row.hardware_count == question["tp"]]
        return max(ours, key=lambda row: row.requests_per_second, default=None)

    def _servers(self, question: Mapping[str, Any], model: str) -> int | None:
        """How many its recommendation takes for the rate, where any latency will do."""
        prompt, output = _profile(question)
        intent = self.intent(
            use_case="chatbot_conversational",
            user_count=1000,
            preferred_gpu_types=[{"gpu_type": question["gpu"], "max_count": question["tp"]}],
            preferred_models=[model],
        )
        usual = self.planner.generate_specification(intent)
        limits = dict.fromkeys(("ttft_target_ms", "itl_target_ms", "e2e_target_ms"), NO_LIMIT)
        load = {"prompt_tokens": prompt, "output_tokens": output, "expected_qps": question["rate"]}
        asked = usual.model_copy(
            update={
                "slo_targets": usual.slo_targets.model_copy(update=limits),
                "workload_profile": usual.workload_profile.model_copy(update=load),
            }
        )
        found = self.planner.generate_recommendations(asked).lowest_cost
        return next((it.gpu_config.replicas for it in found if it.gpu_config.gpu_count == question["tp"]), None)

    def _kv_tokens(self, question: Mapping[str, Any]) -> int:
        # What it would ask the Hub: the number of weights in each format.
        vars(self.capacity)["model_params_by_dtype"] = partial(_weights, question["weights"])
        config = self.capacity.get_model_config_from_hf(question["model"])
        longest, server = question["max_model_len"], (question["model_name"], config)
        room = self.capacity.allocatable_kv_cache_memory(
            *server, 80, question["memory_utilization"], question["tp"], max_model_len=longest
        )
        return int(longest * room / self.capacity.kv_cache_req(*server, longest))


def _profile(question: Mapping[str, Any]) -> tuple[int, int]:
    """The lengths nearest to the load's."""
    wanted = question["input_tokens"], question["output_tokens"]
    return min(PROFILES, key=lambda it: abs(it[0] - wanted[0]) + abs(it[1] - wanted[1]))


def _weights(number: int, *_: object) -> dict[str, int]:
    return {"BF16": number}


PEERS: dict[str, Callable[[], Any]] = {"aiconfigurator": AiConfigurator, "llm-d-planner": LlmDPlanner}


def asked(name: str, questions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A peer's answers, in order, or why it has none."""
    try:
        peer = PEERS[name]()
        version = importlib.metadata.version(peer.package)
    except ImportError as error:
        return {"missing": str(error)}
    answers: list[Answer] = []
    for question in questions:
        try:
            answers.append(peer.answer(question))
        except Exception as error:  # whatever a peer refuses with is its answer
            answers.append({"refusal": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
    return {"version": f"{peer.package} {version}", "answers": answers}


def main() -> None:
    """Answer what stands on standard input."""
    logging.disable(logging.WARNING)
    with redirect_stdout(sys.stderr):
        answers = {name: asked(name, questions) for name, questions in json.load(sys.stdin).items()}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
