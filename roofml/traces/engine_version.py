"""Versions of the serving engine: how one is read, which are known, and which is taken where nobody says.

What a version does differently stands where it is done: the scheduler's rules in `engine/versions.py`, the defaults of
a server in `latency/server_defaults.py`.
"""

from __future__ import annotations

import re

from roofml.traces.finding import Finding
from roofml.util.errors import InputError
from roofml.util.names import shown

Release = tuple[int, int, int]

ENGINES = ("vllm", "sglang", "tensorrt-llm")
"""Engines whose runs are served, all of them by vLLM's scheduler."""
OLDEST: Release = (0, 8, 0)
"""The first vLLM whose default engine is V1, whose scheduler is imitated."""
NEWEST: Release = (0, 33, 0)
"""The newest vLLM that was read."""
SCHEDULES_AHEAD: Release = (0, 14, 0)
"""`async_scheduling` by default; 0.10 to 0.13 have it where it is asked for."""
ASSUMED: Release = (0, 15, 1)
"""That of every measurement the package's priors and coefficients come from: taken where nobody says another."""

OTHER_ENGINE_WIDER = 1.5
"""How much wider intervals are for an engine that vLLM's scheduler stands for, until data say more."""

_VERSION = re.compile(
    r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?(?:(?:\.?(?:rc|a|b|dev|post)|\+|-)[0-9A-Za-z.+_\-]{0,80})?"
)


def parse_version(text: str, source: str) -> Release:
    """A version such as `0.15.1`, `v0.33.0`, `0.16.1rc1.dev45+gdf3b6e5`. Raises InputError, naming `source`."""
    match = _VERSION.fullmatch(text)
    if not match:
        raise InputError(f"{source}: {shown(text)}, expected a version such as 0.15.1")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def release_of(engine: str, version: str | None) -> Release:
    """The release of vLLM whose scheduler and defaults stand for a server's: its own, as near as it is known.

    The newest known for a newer one, and for another engine, whose versions say nothing about vLLM's; the assumed one
    where nobody says. Raises InputError for a text that is no version, and for one whose engine is not imitated.
    """
    if engine != "vllm":
        return NEWEST
    if version is None:
        return ASSUMED
    release = parse_version(version, "engine version")
    if release < OLDEST:
        raise InputError(
            f"engine version {version}: vLLM before {said(OLDEST)} has another scheduler, expected a newer one"
        )
    return min(release, NEWEST)


def schedules_ahead(engine: str, version: str | None) -> bool:
    """Whether a server forms the next batch while a step runs (`async_scheduling`) where nobody tells it.

    vLLM does so by default since 0.14 (vllm/config/vllm.py), and so does one whose version nobody says. Raises
    InputError for a text that is no version.
    """
    return engine != "vllm" or version is None or parse_version(version, "engine version") >= SCHEDULES_AHEAD


def said(release: Release) -> str:
    """`(0, 15, 1)` -> `0.15.1`."""
    return ".".join(map(str, release))


def version_findings(engine: str, version: str | None) -> list[Finding]:
    """What is taken of an engine whose version nobody says, or nobody has read; nothing for a known one."""
    if engine != "vllm":
        return [
            Finding(
                "other-engine",
                "warning",
                f"The server ran {engine}, whose scheduler is not imitated: it is served as by vLLM {said(NEWEST)}.",
                {"engine": engine, "version": version or "", "taken": said(NEWEST)},
                f"Intervals of predictions are at least {OTHER_ENGINE_WIDER:g} times as wide.",
            )
        ]
    if version is None:
        return [
            Finding(
                "engine-version-missing",
                "info",
                f"No file says which version of vLLM served; it is taken as {said(ASSUMED)}.",
                {"taken": said(ASSUMED)},
                "Give --engine-version if it was another: schedulers differ where KV blocks run out.",
            )
        ]
    release = parse_version(version, "engine version")
    if release < OLDEST:
        return [
            Finding(
                "engine-version-older",
                "error",
                f"vLLM {version} had another scheduler, which no replay imitates.",
                {"version": version, "oldest": said(OLDEST)},
                f"Record a run of {said(OLDEST)} or newer.",
            )
        ]
    if release > NEWEST:
        return [
            Finding(
                "engine-version-newer",
                "warning",
                f"vLLM {version} is newer than any that is known here; it is served as {said(NEWEST)}.",
                {"version": version, "taken": said(NEWEST)},
                "Its scheduler may differ. `benchmarks/conformance.py` compares the two where that vLLM is installed.",
            )
        ]
    return []


def wider_for(engine: str) -> float:
    """The factor by which intervals of an engine's predictions are wider, in logarithms."""
    return 1.0 if engine == "vllm" else OTHER_ENGINE_WIDER
