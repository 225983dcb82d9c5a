"""Distributions: how numbers of a load differ from request to request, as one word of a specification says it.

`1024`, `uniform(100,900)`, `lognormal(1024,0.5)`, `exponential(5)`: the last two by their mean; 0.5 is the standard
deviation of the logarithm.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown

KINDS = {"uniform": 2, "lognormal": 2, "exponential": 1}
"""Kind -> how many numbers it takes."""
WIDEST = 3.0
"""Largest standard deviation of a logarithm: beyond, the mean is made by draws that no load of ours has."""
REACH = 4.0
"""Standard deviations, or means, at which a draw of a lognormal, or an exponential, is cut: rarer ones are longer."""
_CALL = re.compile(r"([a-z]+)\(([^()]*)\)")


@dataclass(frozen=True)
class Distribution:
    """One of `KINDS`, or `constant`. Its unit is that of who asks: tokens or seconds."""

    kind: str
    first: float
    """The value, the lower end, or the mean."""
    second: float = 0.0
    """The upper end, or the standard deviation of the logarithm."""

    @property
    def mean(self) -> float:
        """What draws are on average (tails that are cut left aside)."""
        return (self.first + self.second) / 2 if self.kind == "uniform" else self.first

    @property
    def least(self) -> float:
        """No draw is smaller."""
        if self.kind == "lognormal":
            return self._lognormal(-REACH)
        return 0.0 if self.kind == "exponential" else self.first

    @property
    def most(self) -> float:
        """No draw is larger."""
        if self.kind == "lognormal":
            return self._lognormal(REACH)
        if self.kind == "exponential":
            return self.first * REACH**2
        return self.second if self.kind == "uniform" else self.first

    def _lognormal(self, deviations: float) -> float:
        return self.first * math.exp(self.second * deviations - self.second**2 / 2)

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """`count` draws, each by itself. Shape (count,); the first of them are the same whatever `count` is."""
        if self.kind == "uniform":
            return self.first + (self.second - self.first) * random.random(count)
        if self.kind == "lognormal":
            normal = np.clip(random.standard_normal(count), -REACH, REACH)
            return self.first * np.exp(self.second * normal - self.second**2 / 2)
        if self.kind == "exponential":
            return np.minimum(random.standard_exponential(count), REACH**2) * self.first
        return np.full(count, self.first)

    def tokens(self, random: np.random.Generator, count: int) -> Ints:
        """The same in whole tokens, at least one; ends of a uniform one are both as likely as those between."""
        if self.kind == "uniform":
            low, high = math.floor(self.first), math.floor(self.second)
            return np.maximum(1, np.floor(low + (high - low + 1) * random.random(count))).astype(np.int64)
        return np.maximum(1, np.rint(self.draw(random, count))).astype(np.int64)

    def __str__(self) -> str:
        """As it is written."""
        if self.kind == "constant":
            return f"{self.first:g}"
        numbers = f"{self.first:g}" if KINDS[self.kind] == 1 else f"{self.first:g},{self.second:g}"
        return f"{self.kind}({numbers})"


def parse_distribution(text: str, source: str, unit: str, most: float, least: float = 0.0) -> Distribution:
    """What a word says. Raises InputError, naming `source`, for what is none, or lies beyond `least` and `most`."""
    word = text.strip()
    call = _CALL.fullmatch(word)
    if call is None:
        value = _number(word)
        if value is None or not least <= value <= most:
            raise InputError(f"{source} {shown(text)}: expected {unit} from {least:g} to {most:g}, or {_kinds()}")
        return Distribution("constant", value)
    kind, numbers = call[1], [_number(part) for part in call[2].split(",")]
    if kind not in KINDS:
        raise InputError(f"{source} {shown(text)}: expected {unit}, or {_kinds()}")
    values = [number for number in numbers if number is not None]
    if len(values) != KINDS[kind] or len(numbers) != KINDS[kind]:
        raise InputError(f"{source} {shown(text)}: {kind} takes {_numbers(KINDS[kind])}")
    found = Distribution(kind, *values)
    if kind == "uniform" and values[0] > values[1]:
        raise InputError(f"{source} {shown(text)}: expected the smaller end first")
    if kind == "lognormal" and not 0 <= values[1] <= WIDEST:
        raise InputError(f"{source} {shown(text)}: expected a standard deviation of the logarithm from 0 to {WIDEST:g}")
    ends = values if kind == "uniform" else values[:1]
    if min(ends) < least or max(ends) > most:
        raise InputError(f"{source} {shown(text)}: expected {unit} from {least:g} to {most:g}")
    return found


def _kinds() -> str:
    return "uniform(LOW,HIGH), lognormal(MEAN,SD OF THE LOGARITHM), exponential(MEAN)"


def _number(text: str) -> float | None:
    """A finite number as people write one, or None."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _numbers(count: int) -> str:
    return "1 number" if count == 1 else f"{count} numbers"
