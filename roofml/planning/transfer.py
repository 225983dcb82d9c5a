"""Transfer: KV that goes from the GPUs that computed a prompt to those that decode: its bytes, and how long they take.

A decode rank pulls what it keeps of a request, block by block, over its own link; where one prefill rank sends to
several decode ranks its link carries all of that. Bytes are the model's (`models.kv_size`), the link's rate is what a
large message reaches of the sheet's within a node, or what the user says it carries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from roofml.hardware.fabric import reached_bytes_per_us
from roofml.latency.deployment import Deployment
from roofml.models.kv_size import kept_bytes
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError, NotSupportedError

LATENCY_US = 600.0
"""Of a transfer beside its bytes, assumed: what nixlbench has for one of 4 KB between two nodes (ai-dynamo/nixl#2276).
Many small descriptors take longer to post, about 4 µs each (vllm-project/vllm#50913), which is not modelled."""
MOST_LINK = 1e6
"""GB/s."""
NODE = 8
"""GPUs that one node usually has."""


@dataclass(frozen=True)
class Link:
    """What KV goes over."""

    bytes_per_us: float
    """Of one GPU, one direction."""
    said: str
    """Where the figure is from, for people."""
    from_sheet: bool
    latency_us: float = LATENCY_US

    @property
    def gb_per_s(self) -> float:
        """As people write it."""
        return self.bytes_per_us / 1e3


def link_between(prefill: Deployment, decode: Deployment, gb_per_s: float | None = None) -> Link:
    """The link from prefill to decode GPUs: one of so many GB/s for each of them, or that of their node's sheet.

    Raises InputError for a figure that is none, where GPUs of two kinds cannot be of one node, and where the two do not
    keep the same KV; NotSupportedError for ranks whose KV is not cut by tensor parallelism alone.
    """
    if gb_per_s is not None and not (math.isfinite(gb_per_s) and 0 < gb_per_s <= MOST_LINK):
        raise InputError(f"--link {gb_per_s:g}: expected GB/s above 0, up to {MOST_LINK:g}")
    if prefill.model.config_sha256 != decode.model.config_sha256:
        raise InputError(f"prefill of {prefill.model.name} for decode of {decode.model.name}: expected one model")
    if prefill.engine.kv_dtype != decode.engine.kv_dtype:
        kinds = f"{prefill.engine.kv_dtype} and {decode.engine.kv_dtype}"
        raise InputError(f"KV cache of prefill and decode servers: {kinds}: expected one type")
    for deployment in (prefill, decode):
        if deployment.parallel.pp > 1 or deployment.parallel.dp > 1:
            raise NotSupportedError(
                f"{deployment.title}: KV between pipeline stages or data-parallel engines: expected tensor (and "
                "expert) parallelism alone"
            )
    if gb_per_s is not None:
        return Link(1e3 * gb_per_s, f"{gb_per_s:g} GB/s for each GPU, as said", from_sheet=False)
    if prefill.gpu.name != decode.gpu.name:
        raise InputError(
            f"prefill on {prefill.gpu.name} and decode on {decode.gpu.name} are not of one node: no sheet has the link "
            "between them: give --link GB/s"
        )
    reached = reached_bytes_per_us(decode.gpu)
    sheet = decode.gpu.interconnect_bytes_per_us / 1e3
    return Link(reached, f"{reached / 1e3:g} of the {sheet:g} GB/s of {decode.gpu.name}'s sheet", from_sheet=True)


def rank_bytes(prefill: Deployment, decode: Deployment, tokens: Ints) -> Floats:
    """(requests,) bytes that the busiest link of a transfer carries, of requests of so many tokens.

    A decode rank receives what it keeps. Of p prefill and d > p decode ranks each of the p sends to d/p of the d.
    """
    sends = max(1.0, decode.tp / prefill.tp)
    return sends * kept_bytes(decode.on_rank.mixers(decode.tp), tokens).astype(np.float64)


def block_us(link: Link, prefill: Deployment, decode: Deployment, prompt_tokens: Ints, block_size: int) -> Floats:
    """(requests,) how long the link takes for a block of each prompt, on average: whole blocks are sent."""
    blocks = -(-prompt_tokens // block_size)
    return rank_bytes(prefill, decode, blocks * block_size) / blocks / link.bytes_per_us
