"""Is our schedule vLLM's? The scheduler of an installed vLLM and the replay, step by step, on the same workloads.

    python benchmarks/conformance.py [--workloads 1000] [--seed 0] [--asynchronous]     beside an installed vLLM
    python benchmarks/conformance.py --steps < workloads.jsonl > ours.jsonl             our steps alone
    python benchmarks/conformance.py --record < workloads.jsonl > theirs.jsonl          vLLM's alone
    python benchmarks/conformance.py --random 60 --seed 3 [--asynchronous] > workloads.jsonl

vLLM's scheduler and KV-cache manager are Python and need no GPU, but the package must be importable, with the CPU build
of PyTorch; nothing is installed here. A step takes 100 units of time. A workload is a JSON object of one line:

    {"max_num_seqs": 4, "budget": 256, "block_size": 16, "num_blocks": 40, "prefix_caching": true, "async": true,
      "requests": [[arrival, prompt, output, group, prefix], ...],
     "engine_version": "0.33.0", "settings": {"policy": "priority"}, "deadline": 3000}

where requests of a group (>= 0) share the first `prefix` tokens of their prompts. A request may have a sixth number,
its priority. What the last line has may be missing: then the version is `--engine-version`, else the installed one,
settings are vLLM's own, and no client gives up so long after its request. Steps are one line a workload,
`[[tokens, requests], ...]`. Exits with 1 if a workload differs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from roofml.engine.replay import replay_at
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.settings import settings_of

STEP = 100
MODEL_LENGTH = 4096
OUR_NAME = {"budget": "max_num_batched_tokens", "num_blocks": "num_gpu_blocks", "async": "async_scheduling"}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 1024,
    "max_position_embeddings": MODEL_LENGTH,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
"""A model that nobody runs: the scheduler only needs one to be configured."""
MOST_CALLS = 400_000


def random_workloads(seed: int, count: int, asynchronous: bool, more: bool = False) -> Iterator[dict[str, Any]]:
    """Workloads with few or many seats, blocks, and shared prompts; some at the edge of what fits.

    With `more`, of servers with other settings, of requests with priorities, and of clients that give up.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        block_size = int(rng.choice([8, 16, 16, 32]))
        longest, most = int(rng.choice([40, 300, 1200])), int(rng.choice([4, 50, 250]))
        arrival, requests = 0, list[list[int]]()
        multiple = bool(rng.integers(2))  # prompts of whole blocks: their last block is computed though it is cached
        for _ in range(int(rng.integers(1, 50))):
            arrival += int(rng.choice([0, 0, 40, 100, 420]))
            prompt = int(rng.integers(1, longest))
            prompt = max(block_size, prompt // block_size * block_size) if multiple else prompt
            group = int(rng.integers(-1, 3))
            requests.append([arrival, prompt, int(rng.integers(1, most)), group, int(rng.integers(0, longest + 1))])
        need = max(-(-(prompt + output) // block_size) for _, prompt, output, *_ in requests) + 2
        budget = int(rng.choice([64, 128, 512, 4096]))
        settings: dict[str, Any] = {}
        deadline: dict[str, int] = {}
        if more:
            settings = {name: value.item() for name, value in _settings(rng, budget).items() if rng.integers(2)}
            requests = [[*row, int(rng.integers(0, 3))] for row in requests]
            deadline = {"deadline": int(rng.choice([450, 3050, 20050]))} if rng.integers(2) else {}
        seats = min(int(rng.choice([1, 3, 8, 32, 100])), budget)
        if "max_num_active_seqs" in settings:
            settings["max_num_active_seqs"] = min(settings["max_num_active_seqs"], seats)
        yield {
            **deadline,
            **({"settings": settings} if settings else {}),
            "max_num_seqs": seats,
            "budget": budget,
            "block_size": block_size,
            "num_blocks": need + int(rng.choice([0, 3, 20, 150, 5000])),
            "prefix_caching": bool(rng.integers(4)),
            "async": asynchronous,
            "requests": requests,
        }


def _settings(rng: np.random.Generator, budget: int) -> dict[str, Any]:
    return {
        "policy": rng.choice(["fcfs", "priority"]),
        "watermark": rng.choice([0.01, 0.2]),
        "scheduler_reserve_full_isl": rng.choice([False, True]),
        "max_num_active_seqs": rng.choice([1, 2, 5]),
        "long_prefill_token_threshold": rng.choice([16, 100, budget // 2]),
        "long_prefill_token_threshold_adaptive": rng.choice([False, True]),
        "prefill_schedule_interval": rng.choice([2, 5]),
    }


def run_of(workload: dict[str, Any], engine_version: str | None) -> Run:
    """The workload as a run of its server."""
    arrival, prompt, output, group, prefix, *rest = (
        np.array(column) for column in zip(*workload["requests"], strict=True)
    )
    nothing = np.full(len(arrival), np.nan)
    server = Server(
        model="",
        tensor_parallel=1,
        max_num_seqs=workload["max_num_seqs"],
        max_num_batched_tokens=workload["budget"],
        block_size=workload["block_size"],
        num_gpu_blocks=workload["num_blocks"],
        max_model_len=MODEL_LENGTH,
        prefix_caching=workload["prefix_caching"],
        async_scheduling=workload["async"],
        engine_version=workload.get("engine_version", engine_version),
        settings=settings_of(workload.get("settings", {}), "settings"),
    )
    return Run(
        name="workload",
        server=server,
        request_id=np.arange(len(arrival)),
        arrival_us=arrival.astype(np.float64),
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=group,
        prefix_tokens=np.where(group >= 0, prefix, 0),
        ttft_us=nothing,
        e2e_us=nothing,
        ok=np.zeros(len(arrival), np.bool_),
        priority=rest[0] if rest else np.zeros(0, np.int64),
        deadline_us=float(workload.get("deadline", np.inf)),
    )


def our_steps(workload: dict[str, Any], engine_version: str | None) -> list[list[int]]:
    """`[tokens, requests]` of every step of the replay."""
    steps = replay_at(run_of(workload, engine_version), STEP).schedule.steps
    tokens = (steps.prefill_tokens + steps.decode_tokens).astype(np.int64)
    return np.stack([tokens, steps.requests.astype(np.int64)], axis=1).tolist()


def _module(name: str) -> Any:
    return importlib.import_module(name)


class Vllm:
    """The scheduler of the installed vLLM, driven as its engine core drives it."""

    def __init__(self) -> None:
        """Import vLLM, and write the config of a model that nobody runs."""
        os.environ.update(VLLM_TARGET_DEVICE="cpu", HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="CRITICAL")
        try:
            self.torch, self.config, self.sampling = map(_module, ("torch", "vllm.config", "vllm.sampling_params"))
            self.kv, self.outputs = _module("vllm.v1.kv_cache_interface"), _module("vllm.v1.outputs")
            self.request, self.structured = _module("vllm.v1.request"), _module("vllm.v1.structured_output")
            self.hashing = _module("vllm.v1.core.kv_cache_utils")
            scheduler = _module("vllm.v1.core.sched.scheduler").Scheduler
            asynchronous = _module("vllm.v1.core.sched.async_scheduler").AsyncScheduler
        except ImportError as error:
            sys.exit(f"conformance: vLLM cannot be imported ({error}); --steps needs none")
        try:
            self.sha256 = _module("vllm.utils.hashing").sha256
        except ImportError:  # where it was before
            self.sha256 = _module("vllm.utils").sha256
        self.version: str = _module("vllm").__version__
        self.aborted = self.request.RequestStatus.FINISHED_ABORTED
        self.kinds = {False: scheduler, True: asynchronous}
        self.hashing.init_none_hash(self.sha256)
        self._folder = tempfile.TemporaryDirectory()
        (Path(self._folder.name) / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        self._model = self.config.ModelConfig(
            model=self._folder.name,
            tokenizer=self._folder.name,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            seed=0,
            max_model_len=MODEL_LENGTH,
        )

    def more_config(self) -> dict[str, Any]:
        """Further parts of the config."""
        return {}

    def scheduler_of(self, workload: dict[str, Any]) -> Any:
        """A scheduler with the workload's limits and settings."""
        config = self.config
        known = inspect.signature(config.SchedulerConfig).parameters
        limits = {
            "max_num_seqs": workload["max_num_seqs"],
            "max_num_batched_tokens": workload["budget"],
            "max_model_len": MODEL_LENGTH,
            "enable_chunked_prefill": True,
            "async_scheduling": workload["async"],
            "is_encoder_decoder": False,
            **workload.get("settings", {}),
        }
        cache = config.CacheConfig(
            block_size=workload["block_size"],
            gpu_memory_utilization=0.9,
            enable_prefix_caching=workload["prefix_caching"],
        )
        vllm_config = config.VllmConfig(
            scheduler_config=config.SchedulerConfig(**{name: limits[name] for name in limits if name in known}),
            model_config=self._model,
            cache_config=cache,
            device_config=config.DeviceConfig("cpu"),
            **self.more_config(),
        )
        block_size = workload["block_size"]
        vllm_config.cache_config.block_size = block_size  # another device's default would stand there
        vllm_config.cache_config.num_gpu_blocks = workload["num_blocks"]
        vllm_config.scheduler_config.async_scheduling = workload["async"]  # off by default beside this device
        layer = self.kv.FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=self.torch.float32)
        return self.kinds[workload["async"]](
            vllm_config=vllm_config,
            kv_cache_config=self.kv.KVCacheConfig(
                num_blocks=workload["num_blocks"],
                kv_cache_tensors=[],
                kv_cache_groups=[self.kv.KVCacheGroupSpec(["layer"], layer)],
            ),
            block_size=block_size,
            log_stats=False,
            structured_output_manager=self.structured.StructuredOutputManager(vllm_config),
        )

    def request_of(self, workload: dict[str, Any], number: int) -> Any:
        """A request with its own tokens after those of its group."""
        arrival, prompt, output, group, prefix, *rest = workload["requests"][number]
        shared = min(prefix, prompt) if group >= 0 else 0
        tokens = [(7 * group + k * 31) % 900 + 1000 * (group + 1) for k in range(shared)]
        tokens += [1_000_000 * (number + 1) + k for k in range(prompt - shared)]
        taken = inspect.signature(self.request.Request.__init__).parameters
        more: dict[str, Any] = {
            "eos_token_id": None,
            "arrival_time": float(arrival),
            "priority": rest[0] if rest else 0,
        }
        hasher = self.hashing.get_request_block_hasher(workload["block_size"], self.sha256)
        return self.request.Request(
            request_id=f"{number:06d}",
            prompt_token_ids=tokens,
            sampling_params=self.sampling.SamplingParams(ignore_eos=True, max_tokens=output),
            pooling_params=None,
            block_hasher=hasher if workload["prefix_caching"] else None,
            **{name: more[name] for name in more if name in taken},
        )

    def steps(self, workload: dict[str, Any]) -> list[list[int]]:
        """`[tokens, requests]` of every step: one at a time, or with one formed while the one before runs."""
        scheduler = self.scheduler_of(workload)
        arrivals = [row[0] for row in workload["requests"]]
        now, sent, left, steps, flying = arrivals[0], 0, 0, list[list[int]](), list[Any]()
        deadline = workload.get("deadline", np.inf)

        def give_up() -> None:
            nonlocal left
            while left < sent and arrivals[left] + deadline <= now:
                scheduler.finish_requests(f"{left:06d}", self.aborted)
                left += 1

        depth = 2 if workload["async"] else 1
        for _ in range(MOST_CALLS):
            while sent < len(arrivals) and arrivals[sent] <= now:
                scheduler.add_request(self.request_of(workload, sent))
                sent += 1
            give_up()
            if scheduler.has_requests():
                formed = self.formed(scheduler)
                if formed[1]:
                    steps.append([sum(formed[1].values()), len(formed[1])])
                    flying.append(formed)
                    if len(flying) < depth:
                        continue
                elif not flying:
                    self.end(scheduler, formed)
                    now = max(now, arrivals[sent]) if sent < len(arrivals) else now
                    continue
            if flying:
                now += STEP
                give_up()  # vLLM looks for who has gone before it looks at a step's result
                self.end(scheduler, flying.pop(0))
            elif sent < len(arrivals):
                now = max(now, arrivals[sent])
            else:
                return steps
        raise RuntimeError(f"{self.version}: no end after {MOST_CALLS} calls of schedule()")

    def formed(self, scheduler: Any) -> tuple[Any, dict[str, int], set[str]]:
        """What the scheduler forms: its output, tokens by request, and the requests that get one from this step."""
        output = scheduler.schedule()
        tokens: dict[str, int] = dict(output.num_scheduled_tokens)
        sampled: set[str] = set()
        for name in tokens:
            request = scheduler.requests[name]
            # Tokens in flight count as known: one that is computed to the end of them makes the next.
            flying = max(request.num_output_placeholders - 1, 0)
            if request.num_computed_tokens >= request.num_tokens + flying:
                sampled.add(name)
        return output, tokens, sampled

    def end(self, scheduler: Any, formed: tuple[Any, dict[str, int], set[str]], **more: Any) -> None:
        """The step has run: its tokens are there, and `more` of its output."""
        output, tokens, sampled = formed
        names = list(tokens)

        def token(name: str) -> list[int]:
            if name not in sampled:
                return []
            made = len(scheduler.requests[name].output_token_ids) if name in scheduler.requests else 0
            return [500_000_000 + 1_000_000 * int(name) + made]

        result = self.outputs.ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=[token(name) for name in names],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
            **more,
        )
        scheduler.update_from_output(output, result)


def read(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Workloads, one a line."""
    yield from (json.loads(line) for line in lines if line.strip())


def compare(
    workloads: Iterable[dict[str, Any]],
    engine_version: str | None,
    vllm: Vllm,
    steps_of: Callable[[dict[str, Any], str | None], list[list[int]]],
) -> int:
    """Print how many differ, and the first difference of some; the number of them. `steps_of` are our steps."""
    total, steps, differ = 0, 0, 0
    for number, workload in enumerate(workloads):
        theirs = vllm.steps(workload)
        ours = steps_of(workload, engine_version or vllm.version)
        total, steps = total + 1, steps + len(theirs)
        if theirs == ours:
            continue
        differ += 1
        if differ <= 5:
            pairs = zip(theirs, ours, strict=False)
            place = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
            limits = {name: value for name, value in workload.items() if name != "requests"}
            print(f"workload {number}: {limits}, {len(workload['requests'])} requests")
            print(f"  step {place} of {len(theirs)}: vLLM {theirs[place : place + 3]}, ours {ours[place : place + 3]}")
    print(f"vLLM {vllm.version}: {total} workloads, {steps} steps, {differ} differ")
    return differ


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workloads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--more", action="store_true", help="With other settings, priorities and deadlines.")
    parser.add_argument("--engine-version", help="For workloads that carry none.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--steps", action="store_true", help="Our steps of the workloads on standard input.")
    only.add_argument("--record", action="store_true", help="vLLM's steps of them.")
    only.add_argument("--compare", action="store_true", help="Both, compared.")
    only.add_argument("--random", type=int, help="Random workloads.")
    options = parser.parse_args()
    if options.steps:
        for workload in read(sys.stdin):
            print(json.dumps(our_steps(workload, options.engine_version)), flush=True)
    elif options.record:
        vllm = Vllm()
        for workload in read(sys.stdin):
            print(json.dumps(vllm.steps(workload)), flush=True)
    elif options.random:
        for workload in random_workloads(options.seed, options.random, options.asynchronous, options.more):
            print(json.dumps(workload))
    else:
        random = random_workloads(options.seed, options.workloads, options.asynchronous, options.more)
        asked = read(sys.stdin) if options.compare else random
        sys.exit(1 if compare(asked, options.engine_version, Vllm(), our_steps) else 0)


if __name__ == "__main__":
    main()
