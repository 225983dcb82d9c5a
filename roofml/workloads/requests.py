"""Requests of a load: how long they are and what they share, drawn by class or given one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.workloads.distribution import Distribution
from roofml.workloads.slo import Slo

ONCE, NO_PAUSE = Distribution("constant", 1.0), Distribution("constant", 0.0)
TURNS_REACH = 4.0
"""Means of a session's requests beyond which sessions are too rare to count."""
CLASS, INPUT, OUTPUT, GROUP, TURNS, THINK = 1, 2, 3, 4, 7, 8
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
    """Of the requests, beside those of other classes; of the sessions, where there are any."""
    shared_prefix: int = 0
    """Leading tokens of a prompt that the requests of a group have in common."""
    groups: int = 1
    """Different prefixes; a request has any of them, each as likely."""
    slos: tuple[Slo, ...] = ()
    """What the users of this class expect."""
    turns: Distribution = ONCE
    """Requests of a session: each has all that was said before it in its prompt, and `input` more tokens."""
    think_s: Distribution = NO_PAUSE
    """Between an answer and the session's next request."""

    @property
    def longest(self) -> float:
        """Most tokens of a request, prompt and answer."""
        return (self.input.most + self.output.most) * np.floor(self.turns.most)


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
    session: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """The session of each, counted from 0; empty: every request is one of its own."""
    turn: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Its place in the session, from 0."""
    think_us: Floats = field(default_factory=lambda: np.zeros(0))
    """How long after the answer before it is sent."""

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def beside(self, others: Requests) -> Requests:
        """These sessions and then those others, each with a prefix group of its own."""
        apart = int(self.session[-1]) + 1
        moved = replace(others, session=others.session + apart, prefix_group=others.prefix_group + apart)
        return Requests(
            *(np.concatenate((getattr(self, each.name), getattr(moved, each.name))) for each in fields(self))
        )


@dataclass(frozen=True)
class Drawn:
    """Requests that are drawn anew for each seed."""

    classes: tuple[RequestClass, ...]

    @property
    def longest(self) -> int:
        """Most tokens of a request, prompt and answer."""
        return int(np.ceil(max(each.longest for each in self.classes)))

    @property
    def turns(self) -> float:
        """Requests of a session, on average over sessions."""
        return self._mean([each.turns.mean for each in self.classes])

    @property
    def pauses_s(self) -> float:
        """All pauses of a session together, on average over sessions."""
        return self._mean([(each.turns.mean - 1) * each.think_s.mean for each in self.classes])

    def longest_session_s(self, answer_s: float) -> float:
        """How long nearly every session is over after, if each answer takes so long."""
        most = (min(each.turns.most, TURNS_REACH * each.turns.mean) for each in self.classes)
        return max(turns * (each.think_s.mean + answer_s) for turns, each in zip(most, self.classes, strict=True))

    def _mean(self, values: Sequence[float]) -> float:
        """Of a figure of each class, by its share of the sessions."""
        shares = [each.share for each in self.classes]
        return sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)

    def sessions(self, count: int, seed: int) -> Requests:
        """The requests of the first `count` sessions, one session after the other."""
        first = self.draw(count, seed)
        size = np.ones(count, np.int64)
        for place, each in enumerate(self.classes):
            mine = first.of_class == place
            size[mine] = np.maximum(1, each.turns.tokens(np.random.default_rng([seed, TURNS, place]), count)[mine])
        session = np.repeat(np.arange(count), size)
        turn = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
        of_class = first.of_class[session]
        said, output, think = (np.zeros(len(session)) for _ in range(3))
        for place, each in enumerate(self.classes):
            mine, total = of_class == place, len(session)
            said[mine] = each.input.tokens(np.random.default_rng([seed, INPUT, place, 1]), total)[mine]
            output[mine] = each.output.tokens(np.random.default_rng([seed, OUTPUT, place, 1]), total)[mine]
            think[mine] = each.think_s.draw(np.random.default_rng([seed, THINK, place]), total)[mine]
        before = np.cumsum(said + output)
        begin = np.repeat(np.concatenate(([0.0], before))[np.cumsum(size) - size], size)
        prompt = (before - output - begin).astype(np.int64)
        tokens = output.astype(np.int64)
        return Requests(
            prompt, tokens, session, prompt + tokens, of_class, session, turn, np.where(turn > 0, 1e6 * think, 0.0)
        )

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
    if each.turns != ONCE and each.shared_prefix:
        raise InputError(
            f"{source}: shared_prefix {each.shared_prefix} beside turns: a session shares its own past alone, expected "
            "one of them"
        )
    if each.groups > 1 and not each.shared_prefix:
        raise InputError(f"{source}: groups {each.groups}: expected a shared_prefix for them to differ in")
