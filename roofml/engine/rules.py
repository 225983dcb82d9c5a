"""Rules and limits: what the server of a run allows, and what its version and settings of vLLM's scheduler do."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What the server allows, and what it starts as."""

    max_num_seqs: int
    budget: int
    block_size: int
    num_gpu_blocks: int
    prefix_caching: bool
    steps_ahead: int
    fresh: bool
    experts: int
    experts_per_token: int
    captured: int
    """New tokens of the largest CUDA graph."""
    launches_us: float
    """Least time of a step of more (`latency.launches`)."""
    drafts: int
    """Drafts of a decode that a step verifies."""
    acceptance: float | None
    """Tokens that a decode keeps of such a step on average; None: the one."""


class Rules(NamedTuple):
    """What versions and settings of vLLM's scheduler do differently."""

    by_priority: bool
    """`policy: priority`."""
    reserve_prompt: bool
    """A waiting request is admitted only if all of its tokens fit the free blocks, not its first chunk alone."""
    watermark_blocks: int
    """Blocks that stay free when one is admitted beside running ones."""
    keeps_place: bool
    """A preempted request that stood before the one in turn, and was not in the step, costs nobody the turn."""
    goes_on: bool
    """Where a running request had to be preempted for itself, by priority, those after it are still served."""
    empty_first: bool
    """Freed blocks that hold nothing to be found are handed out first; else all in the order they were freed."""
    max_running: int
    """Most running requests beyond which none is admitted."""
    longest_chunk: int
    """Most tokens of one request in a step; 0: the budget alone."""
    longest_chunk_alone: bool
    """That holds for a request beside which there is no other, too."""
    fair_chunk: bool
    """It is never less than the budget over the number of requests."""
    prefill_interval: int
    """Steps from one with prompts to the next while others decode; 1: prompts in every step."""
    most_requests: int
    """Requests waiting and running beyond which another is turned away."""
    most_queued_tokens: int
    """Prompt tokens of requests without a first token from which on another is turned away."""
    reserves_for_prompts: bool
    """KV from elsewhere leaves the blocks free that prompts in the making still need."""
    waits_for_steps: bool
    """Beside KV from elsewhere nobody is preempted whose step is in flight."""
