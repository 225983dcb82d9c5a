"""Requests of a load: how long they are and what they share, drawn by class or given one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.workloads.distribution import Distribution
from roofml.workloads.slo import Slo

CLASS, INPUT, OUTPUT, GROUP = 1, 2, 3, 4
"""Streams of random numbers of one seed; arrivals and pauses have others (`Workload`)."""


def stream(seed: int, which: int) -> np.random.Generator:
    """Random numbers of their own for each thing that is drawn: none moves another's."""
    return np.random.default_rng([seed, which])


@dataclass(frozen=True)
class RequestClass:
    """Requests of one kind."""

    name: str
    input: Distribution
    """Tokens of a prompt, those it shares included."""
    output: Distribution
    share: float = 1.0
    """Of the requests, beside those of other classes."""
    shared_prefix: int = 0
    """Leading tokens of a prompt that the requests of a group have in common."""
    groups: int = 1
    """Different prefixes; a request has any of them, each as likely."""
    slos: tuple[Slo, ...] = ()
    """What the users of this class expect."""

    @property
    def longest(self) -> float:
        """Most tokens of a request, prompt and answer."""
        return self.input.most + self.output.most


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in order of arrival. Every array has shape (requests,)."""

    prompt_tokens: Ints
    output_tokens: Ints
    prefix_group: Ints
    """-1: shares with nobody."""
    prefix_tokens: Ints
    of_class: Ints
    """Place of its class among the workload's."""

    def __len__(self) -> int:
        return len(self.prompt_tokens)


@dataclass(frozen=True)
class Drawn:
    """Requests that are drawn anew for each seed."""

    classes: tuple[RequestClass, ...]

    @property
    def longest(self) -> int:
        """Most tokens of a request, prompt and answer."""
        return int(np.ceil(max(each.longest for each in self.classes)))

    def draw(self, count: int, seed: int) -> Requests:
        """The first `count` requests; the first of them are the same whatever `count` is."""
        shares = np.cumsum([each.share for each in self.classes])
        of_class = np.searchsorted(shares / shares[-1], stream(seed, CLASS).random(count), side="right")
        of_class = np.minimum(of_class, len(self.classes) - 1).astype(np.int64)
        prompt, output = np.ones(count, np.int64), np.ones(count, np.int64)
        group, prefix = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        chosen = stream(seed, GROUP).random(count)
        groups = 0
        for place, each in enumerate(self.classes):
            # Every class draws for all requests, so that one more of another does not move its draws.
            mine = of_class == place
            prompt[mine] = each.input.tokens(np.random.default_rng([seed, INPUT, place]), count)[mine]
            output[mine] = each.output.tokens(np.random.default_rng([seed, OUTPUT, place]), count)[mine]
            if each.shared_prefix:
                group[mine] = groups + np.floor(chosen[mine] * each.groups).astype(np.int64)
                prefix[mine] = np.minimum(each.shared_prefix, prompt[mine])
                groups += each.groups
        return Requests(prompt, output, group, prefix, of_class)


@dataclass(frozen=True, eq=False)
class Given:
    """Requests as somebody recorded them; when all have been sent they come again, with prompts of their own."""

    requests: Requests

    @property
    def longest(self) -> int:
        """Most tokens of a request, prompt and answer."""
        return int((self.requests.prompt_tokens + self.requests.output_tokens).max())

    def draw(self, count: int, seed: int) -> Requests:
        """The first `count` requests; nothing is random in them."""
        del seed
        given, size = self.requests, len(self.requests)
        if count == size:
            return given
        rounds, place = divmod(np.arange(count), size)
        group = given.prefix_group[place]
        apart = int(given.prefix_group.max()) + 1
        return Requests(
            given.prompt_tokens[place],
            given.output_tokens[place],
            np.where(group >= 0, group + rounds * apart, -1),
            given.prefix_tokens[place],
            given.of_class[place],
        )


def check_class(each: RequestClass, source: str) -> None:
    """Raise InputError, naming `source`, where what a class says does not go together."""
    if each.shared_prefix > each.input.most:
        raise InputError(
            f"{source}: shared_prefix {each.shared_prefix}: no prompt is that long, expected at most "
            f"{each.input.most:g}"
        )
    if each.groups > 1 and not each.shared_prefix:
        raise InputError(f"{source}: groups {each.groups}: expected a shared_prefix for them to differ in")
