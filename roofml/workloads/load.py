"""Load: requests that a server is to answer, open (they arrive when they arrive) or closed (each client waits)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Load:
    """Requests in the order in which they are sent. Every array has shape (requests,)."""

    name: str
    arrival_us: Floats
    """When they are sent, µs, ascending; of a closed load the first of every client, the others are 0."""
    prompt_tokens: Ints
    output_tokens: Ints
    clients: int = 0
    """Of a closed load, each of which sends its next request when its last one is answered; 0: an open one."""
    prefix_group: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Requests of one group share the first of their tokens, as in `Run`; -1: with nobody. Empty: nobody shares."""
    prefix_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """How many of its tokens a request has in common with its group at most."""
    pause_us: Floats = field(default_factory=lambda: np.zeros(0))
    """Of a closed load, how long a client waits after an answer before it sends this request; empty: not at all."""
    after: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of sessions, the request whose answer each waits for, and then `pause_us`; -1: none. `arrival_us` is then when it
    would be sent if answers took no time. Empty: nobody waits."""
    shares_answers: bool = False
    """Of sessions, whose next prompt holds the answer too: `prefix_tokens` go beyond the prompt into it."""
    of_class: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """The class of each request, where there are several; empty: one."""
    deadline_us: float = math.inf
    """After how long a client gives a request up."""
    priority: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Lower numbers first, where the server's policy is `priority`; empty if all are equal."""

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def waits_for_answers(self) -> bool:
        """Whether when a request is sent depends on answers: of clients, and of sessions."""
        return self.clients > 0 or len(self.after) > 0

    def run(self, server: Server) -> Run:
        """The load on a server, with no latency measured, for the replay."""
        size = len(self)
        shares = len(self.prefix_group) > 0
        return Run(
            name=self.name,
            server=server,
            request_id=np.arange(size),
            arrival_us=self.arrival_us,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            prefix_group=self.prefix_group if shares else np.full(size, -1),
            prefix_tokens=self.prefix_tokens if shares else np.zeros(size, np.int64),
            ttft_us=np.full(size, np.nan),
            e2e_us=np.full(size, np.nan),
            ok=np.zeros(size, np.bool_),
            clients=self.clients,
            pause_us=self.pause_us,
            shares_answers=self.shares_answers,
            deadline_us=self.deadline_us,
            priority=self.priority,
        )

    def within(self, most: int) -> Load:
        """The load on a server that ends an answer at `most` tokens, prompt included.

        A prompt that leaves no room for an answer stays as it is: no server takes it.
        """
        room = most - self.prompt_tokens
        long = (self.output_tokens > room) & (room >= 1)
        return replace(self, output_tokens=np.where(long, room, self.output_tokens)) if long.any() else self

    def sent(self, arrival_us: Floats) -> tuple[Load, Ints]:
        """The load with these arrivals, in their order, and that order: places in this load, (requests,)."""
        order = np.argsort(arrival_us, kind="stable")
        columns = ("prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens", "of_class", "priority")
        taken = {name: getattr(self, name)[order] for name in columns if len(getattr(self, name))}
        nothing = np.zeros(0)
        return replace(
            self, arrival_us=arrival_us[order], after=nothing.astype(np.int64), pause_us=nothing, **taken
        ), order

    def at_rate(self, requests_per_s: float) -> Load:
        """An open load with its arrivals stretched so that so many come a second on average.

        Raises InputError for a closed load, which has no rate, and for requests that all come at once.
        """
        span = float(self.arrival_us[-1] - self.arrival_us[0]) if len(self) and not self.clients else 0.0
        if span <= 0:
            raise InputError(f"{self.name}: no arrivals that can be stretched, expected requests at different times")
        factor = 1e6 * (len(self) - 1) / requests_per_s / span
        return replace(self, arrival_us=(self.arrival_us - self.arrival_us[0]) * factor)


def closed_load(name: str, clients: int, prompt_tokens: Ints, output_tokens: Ints) -> Load:
    """Clients that start at once and go on until all requests are answered."""
    size = len(prompt_tokens)
    return Load(name, np.zeros(size), prompt_tokens, output_tokens, min(clients, size))


def poisson_load(name: str, rate: float, prompt_tokens: Ints, output_tokens: Ints, seed: int) -> Load:
    """Requests that arrive at random, `rate` of them a second on average, however the server does."""
    gaps = np.random.default_rng(seed).exponential(1e6 / rate, len(prompt_tokens))
    return Load(name, np.cumsum(gaps) - gaps[:1], prompt_tokens, output_tokens)


def bursty_load(name: str, rate: float, burstiness: float, prompt_tokens: Ints, output_tokens: Ints, seed: int) -> Load:
    """As `poisson_load`, with gaps of a gamma distribution of that shape, as `vllm bench serve --burstiness` has them:
    below 1 in bursts, above it the more even the larger; `inf`: at equal times."""
    requests = len(prompt_tokens)
    if np.isinf(burstiness):
        gaps = np.full(requests, 1e6 / rate)
    else:
        gaps = np.random.default_rng(seed).gamma(burstiness, 1e6 / (rate * burstiness), requests)
    return Load(name, np.cumsum(gaps) - gaps[:1], prompt_tokens, output_tokens)
