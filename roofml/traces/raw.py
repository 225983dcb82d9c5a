"""RawRun: a run as its trace reports it, before the doctor corrects it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.overview import Overview
from roofml.traces.server import Server
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.digest import digest


@dataclass(frozen=True)
class Generator:
    """Settings of the load generator. None: its files do not say."""

    source: str
    """File the settings were read from."""
    ignore_eos: bool | None = None
    output_tokens: int | None = None
    """Output tokens that every request asked for, if all asked for the same number."""
    prompts: int | None = None
    """Number of different prompts, sent over and over in the same order."""
    prompts_per_group: int | None = None
    system_prompt_tokens: int | None = None
    """Leading tokens that the prompts of one group have in common."""
    stages: tuple[tuple[float, float], ...] = ()
    """Requests per second and seconds of each stage of an open load; empty: its files do not say."""


@dataclass(frozen=True, eq=False)
class RawRun:
    """Requests in the order they were sent, as the trace reports them. Every array has shape (requests,).

    A count of 0 means the trace does not say. A reader fills this; `roofml.traces.doctor.clean` makes the `Run`.
    """

    name: str
    source: str
    """Path of the folder or file that was read."""
    server: Server
    request_id: Ints
    send_us: Floats
    """µs from the first send; ascending."""
    lag_us: Floats
    """Send time minus planned arrival, µs, as recorded: the two clocks may have different origins."""
    input_tokens: Ints
    """Tokens of the prompt after its named prefix, as the client counted them."""
    server_input_tokens: Ints
    """Tokens of the whole prompt, as the server counted them; 0: not recorded."""
    output_tokens: Ints
    num_chunks: Ints
    prefix_group: Ints
    """Named shared prefix of the request, numbered from 0; -1: none named."""
    prefix_length: Ints
    ttft_us: Floats
    """First chunk minus send, µs; NaN where no chunk came."""
    e2e_us: Floats
    """Last chunk minus send, µs; NaN where no chunk came."""
    ok: Bools
    """The request succeeded."""
    timed: Bools
    """False for a successful request whose times cannot be (`request_times`): it loads the server, and has no times."""
    streamed: Bools
    """Chunks came as they were generated. Without streaming the first chunk is the last, and TTFT was not measured."""
    warm_up: Bools
    """The request was sent to warm the server up: it loaded the server but must not be measured."""
    failed_after_us: Floats = field(default_factory=lambda: np.zeros(0))
    """When a failed request ended, µs after its send; NaN where it did not fail, or nobody says. Empty: none failed."""
    priority: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Lower numbers first, where the server's policy is `priority`. Empty: all are equal."""
    deadline_s: float | None = None
    """The user's word on when the client gives up, seconds."""
    failure_messages: tuple[str, ...] = ()
    """Some of the different error messages of failed requests."""
    generator: Generator | None = None
    output_tokens_override: int | None = None
    findings: tuple[Finding, ...] = ()
    """Findings of the reader itself."""
    prompt: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Number of the prompt: requests of equal prompts have equal numbers. Empty: nobody says."""
    cached_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Prompt tokens that the server found in its cache, as it said. Empty: it did not."""
    aside: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Its times are no replay's, as of a prompt that was in the cache before the run. Empty: none."""
    clients: int = 0
    """Of a closed loop, as in `Run`."""
    overview: Overview | None = None
    """None: the reader knows of nothing but these requests."""

    def __post_init__(self) -> None:
        """Without times of failures, none is known; without requests aside, there is none."""
        if not len(self.failed_after_us):
            object.__setattr__(self, "failed_after_us", np.full(len(self.send_us), np.nan))
        if not len(self.aside):
            object.__setattr__(self, "aside", np.zeros(len(self.send_us), np.bool_))

    def __len__(self) -> int:
        return len(self.send_us)

    @property
    def measured(self) -> Bools:
        """Requests to measure: with both times, not counting warm-up and those that are aside."""
        return self.timely & ~self.aside

    @property
    def timely(self) -> Bools:
        """Requests with both times, not counting warm-up."""
        return self.ok & self.timed & self.streamed & ~self.warm_up

    @property
    def identity(self) -> str:
        """A digest of the client's measurements; it does not depend on the name of the folder."""
        return digest(self.request_id, self.send_us, self.ttft_us, self.e2e_us, self.ok)
