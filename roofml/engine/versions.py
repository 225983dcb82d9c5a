"""Versions: what the scheduler of a vLLM release does by its defaults and by the server's settings.

Read from the releases themselves (vllm/v1/core/sched/scheduler.py, core/kv_cache_manager.py, core/block_pool.py); the
first one that has a thing is named with it. `benchmarks/conformance.py` holds three of them against the real ones.
"""

from __future__ import annotations

from roofml.engine.rules import Rules
from roofml.traces.engine_version import Release, release_of
from roofml.traces.server import Server

RESERVES_PROMPT: Release = (0, 19, 0)
"""`scheduler_reserve_full_isl`, on by default."""
WATERMARK: Release = (0, 24, 0)
EMPTY_FIRST: Release = (0, 24, 0)
"""Freed blocks without a hash go to the head of the free list, those with one to its end."""
PRIORITY_KEEPS_PLACE: Release = (0, 28, 0)
PRIORITY_GOES_ON: Release = (0, 33, 0)
ACTIVE_SEATS: Release = (0, 31, 0)
"""`max_num_active_seqs`; and a request without another beside it may use the whole budget for its prompt."""
PREFILL_INTERVAL: Release = (0, 33, 0)
"""`prefill_schedule_interval` without data parallelism; before, only between data-parallel engines."""
QUEUE_LIMITS: Release = (0, 29, 0)
RESERVES_FOR_PROMPTS: Release = (0, 23, 0)
"""`_inflight_prefill_reserved_blocks`, for asynchronous loads of a KV connector."""
WAITS_FOR_STEPS: Release = (0, 30, 0)
"""`_request_blocks_can_be_freed`, of a consumer of KV with batches formed ahead."""
NO_LIMIT = 2**62


def rules_of(server: Server) -> Rules:
    """The rules by which a server's engine forms its batches.

    Raises InputError for a version that is none, or whose engine is not imitated.
    """
    release, settings = release_of(server.engine, server.engine_version), server.settings
    reserve = settings.scheduler_reserve_full_isl
    seats = settings.max_num_active_seqs if release >= ACTIVE_SEATS else None
    limited = release >= QUEUE_LIMITS
    return Rules(
        by_priority=settings.policy == "priority",
        reserve_prompt=release >= RESERVES_PROMPT and reserve is not False,
        watermark_blocks=int(settings.watermark * server.num_gpu_blocks) if release >= WATERMARK else 0,
        keeps_place=release >= PRIORITY_KEEPS_PLACE,
        goes_on=release >= PRIORITY_GOES_ON,
        empty_first=release >= EMPTY_FIRST,
        max_running=min(server.max_num_seqs, seats or server.max_num_seqs),
        longest_chunk=settings.long_prefill_token_threshold,
        longest_chunk_alone=release < ACTIVE_SEATS,
        fair_chunk=settings.long_prefill_token_threshold_adaptive and release >= ACTIVE_SEATS,
        prefill_interval=settings.prefill_schedule_interval if release >= PREFILL_INTERVAL else 1,
        most_requests=(settings.max_num_queued_reqs if limited else None) or NO_LIMIT,
        most_queued_tokens=(settings.max_num_queued_tokens if limited else None) or NO_LIMIT,
        reserves_for_prompts=release >= RESERVES_FOR_PROMPTS,
        waits_for_steps=release >= WAITS_FOR_STEPS,
    )
