"""The command line of `vllm bench forward`, and the server that a load is replayed on for a design."""

from __future__ import annotations

from roofml.calibration.forwards.cases import Limits
from roofml.latency.deployment import Deployment
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.server import Server

ONE_GPU = ("vllm", "bench", "forward")
MODULE = ("-m", "vllm.entrypoints.cli.main", "bench", "forward")
"""Of what `torchrun` starts, one process a GPU."""


def bench_command(deployment: Deployment, limits: Limits, shapes: str, output: str) -> list[str]:
    """The words to run: exact lengths, no jitter. Its file is `output`."""
    tp = deployment.tp
    start = [*ONE_GPU] if tp == 1 else ["torchrun", f"--nproc-per-node={tp}", *MODULE]
    words = [*start, "--model", deployment.hf_repo]
    if tp > 1:
        words += ["--tensor-parallel-size", str(tp)]
    if deployment.engine.kv_dtype != deployment.engine.dtype:
        words += ["--kv-cache-dtype", deployment.engine.kv_dtype]
    if limits.shortened:
        words += ["--max-model-len", str(limits.longest)]
    return [*words, "--shapes", shapes, "--kv-len-jitter", "0", "--output-json", output]


def fit_command(deployment: Deployment, output: str) -> list[str]:
    """The words that fit what the benchmark wrote."""
    words = ["roofml", "fit", output, "--model", deployment.hf_repo, "--gpu", deployment.gpu.name]
    words += ["--tp", str(deployment.tp)]
    if deployment.engine.kv_dtype != deployment.engine.dtype:
        words += ["--kv-dtype", deployment.engine.kv_dtype]
    return [*words, "-o", "coefficients.yaml"]


def server_within(deployment: Deployment, limits: Limits) -> Server:
    """A server of the deployment with these limits, that has served before."""
    return Server(
        model=deployment.hf_repo,
        tensor_parallel=deployment.tp,
        max_num_seqs=limits.requests,
        max_num_batched_tokens=limits.budget,
        block_size=limits.block_size,
        num_gpu_blocks=limits.blocks or MOST_OF_SERVER["num_gpu_blocks"],
        max_model_len=limits.longest,
        gpu=deployment.gpu.name,
        fresh=False,
        engine=deployment.engine.name,
        engine_version=deployment.engine.version,
    )
