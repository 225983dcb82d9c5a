"""Recording: one run as one file tells it, before anybody knows the server that served it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.raw import Generator
from roofml.util.arrays import Bools, Floats, Ints

Facts = Mapping[str, object]
"""Field of `Server`, or of its settings, -> value."""


@dataclass(frozen=True, eq=False)
class Requests:
    """What a client wrote down of each request, in order of sending. Every array has shape (requests,).

    A count of 0 means the file does not say; NaN a time that it does not say.
    """

    send_us: Floats
    """µs from the first send, ascending; NaN throughout where the file has no times of sending."""
    input_tokens: Ints
    """Tokens of the prompt, as the client counted them."""
    server_input_tokens: Ints
    """Tokens of the whole prompt, as the server counted them."""
    output_tokens: Ints
    ttft_us: Floats
    e2e_us: Floats
    ok: Bools
    """It succeeded."""
    num_chunks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Empty: not written down."""
    cached_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Prompt tokens that the server found in its cache, as it said; empty: it did not."""
    prompt: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Number of the prompt: requests of equal prompts have equal numbers; empty: nobody says."""
    warm_up: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Sent to warm the server up; empty: none."""
    aside: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Its times are no replay's, as of a prompt that was in the cache before the run; empty: none."""
    streamed: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Empty: all were."""


@dataclass(frozen=True)
class LoadSaid:
    """What a client says of the load it made. None: it does not say."""

    max_concurrency: int | None = None
    requests_per_s: float | None = None
    """`inf`: all at once."""
    burstiness: float | None = None
    input_tokens: float | None = None
    """Mean of a request."""
    output_tokens: float | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """One run as one file tells it. A reader makes it; `read` finds the server and makes the `RawRun`."""

    name: str
    source: str
    format: str
    requests: int
    """All that were sent, failed ones too."""
    completed: int
    each: Requests | None = None
    """None: the file has aggregates alone."""
    aggregates: Mapping[str, float] = field(default_factory=dict[str, float])
    """As the file has them: `ttft_mean`, `ttft_median`, `ttft_p99`, `tpot_...`, `itl_...`, `e2e_...` in µs,
    `duration_us`, `output_tokens_per_s`, `requests_per_s`."""
    load: LoadSaid = LoadSaid()
    facts: Mapping[str, Facts] = field(default_factory=dict[str, Facts])
    """File -> what it says of the server."""
    hints: Mapping[str, Facts] = field(default_factory=dict[str, Facts])
    """File -> what it says in passing: the model as the client typed it."""
    generator: Generator | None = None
    findings: tuple[Finding, ...] = ()
    refused: str | None = None
    """Why the run cannot be used at all."""
    unfit: str | None = None
    """Why it can be judged and not fitted on."""
