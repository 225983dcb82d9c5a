"""One line that says a load: `poisson:rate=8,input=1024,output=256`, `closed:concurrency=64,input=1024,output=256`.

KIND:NAME=VALUE,... with these names:

- `poisson`, `gamma`, `constant`: `rate`, requests a second, or `stages(2x60,8x120)`, 2 a second for 60 s and then 8 for
  120 s; of `gamma` also `burstiness`
- the same: `turns`, requests of a session, each of which has all that was said before it in its prompt, and `think`,
  seconds between an answer and the session's next request; `input` is then what each adds, `rate` still of requests
- `closed`: `concurrency`, clients, and `think`, seconds between an answer and the client's next request
- all: `input` and `output`, tokens; `shared_prefix`, leading tokens that all prompts share, or those of each of as many
  `groups`; `requests`, how many there are

`input`, `output` and `think` are numbers or distributions (`distribution`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from roofml.traces.limits import MOST_REQUESTS
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.workloads.arrivals import NO_PAUSE, Closed, Open, Pattern, Stage
from roofml.workloads.distribution import Distribution, parse_distribution
from roofml.workloads.requests import ONCE, Drawn, RequestClass, check_class
from roofml.workloads.workload import Workload

OPEN = ("poisson", "gamma", "constant")
KINDS = (*OPEN, "closed")
OF_KIND = {"poisson": ("rate",), "constant": ("rate",), "gamma": ("rate", "burstiness"), "closed": ("concurrency",)}
"""Kind -> names that it needs."""
OPTIONAL_OF_KIND = {"closed": ("think",), **dict.fromkeys(OPEN, ("turns", "think"))}
OF_REQUESTS = ("input", "output")
OPTIONAL = ("shared_prefix", "groups", "requests")
MOST_RATE = 1e6
MOST_CLIENTS = 100_000
MOST_LENGTH = 10_000_000
MOST_PAUSE_S = 86_400.0
MOST_BURSTINESS = 1e4
MOST_TURNS = 1000
_PART = re.compile(r"[^,()]*(?:\([^()]*\)[^,()]*)?(?:,|$)")
_STAGES = re.compile(r"stages\(([^()]*)\)")


def is_spec(text: str) -> bool:
    """Whether a text begins as a specification does, whatever follows."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind.strip() in KINDS


def parse_spec(text: str) -> Workload:
    """The load that one line says. Raises InputError, naming the field and what it may hold."""
    source = f"load {shown(text)}"
    kind, _, rest = text.partition(":")
    kind = kind.strip()
    if kind not in KINDS:
        raise InputError(f"{source}: {shown(kind)}: expected one of {', '.join(KINDS)}, and a colon")
    given = _pairs(rest, source)
    needed = (*OF_KIND[kind], *OF_REQUESTS)
    known = (*needed, *OPTIONAL_OF_KIND.get(kind, ()), *OPTIONAL)
    for name in given:
        if name not in known:
            raise InputError(f"{source}: {shown(name)}: not known of {kind}, expected one of {', '.join(known)}")
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(f"{source}: {', '.join(missing)} missing, expected {kind}:{_example(kind)}")
    requests = whole(given["requests"], f"{source}: requests", MOST_REQUESTS) if "requests" in given else None
    pattern = pattern_of(kind, given, source)
    if requests is None and isinstance(pattern, Open):
        requests = pattern.requests
    return Workload(text.strip(), pattern, Drawn((class_of(given, source),)), requests)


def _example(kind: str) -> str:
    values = {"rate": "8", "burstiness": "0.5", "concurrency": "64", "input": "1024", "output": "256"}
    return ",".join(f"{name}={values[name]}" for name in (*OF_KIND[kind], *OF_REQUESTS))


def _pairs(text: str, source: str) -> dict[str, str]:
    """Name -> value, as they stand between commas; commas in parentheses do not count."""
    pairs: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match.end() == place:
            raise InputError(f"{source}: {shown(text[place:])}: expected NAME=VALUE,...")
        part = match[0].removesuffix(",")
        place = match.end()
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name or not value:
            raise InputError(f"{source}: {shown(part)}: expected NAME=VALUE")
        if name in pairs:
            raise InputError(f"{source}: {name} is there twice")
        pairs[name] = value
    return pairs


def pattern_of(kind: str, given: Mapping[str, str], source: str) -> Pattern:
    """When the requests of a kind of load come. Raises InputError, naming `source` and the field."""
    if kind == "closed":
        clients = whole(given["concurrency"], f"{source}: concurrency", MOST_CLIENTS)
        pause = NO_PAUSE
        if "think" in given:
            pause = parse_distribution(given["think"], f"{source}: think", "seconds", MOST_PAUSE_S)
        return Closed(clients, pause)
    burstiness = {"poisson": 1.0, "constant": math.inf}.get(kind)
    if burstiness is None:
        burstiness = number(given["burstiness"], f"{source}: burstiness", "a number", MOST_BURSTINESS)
    stages = _STAGES.fullmatch(given["rate"])
    if stages is None:
        return Open(number(given["rate"], f"{source}: rate", "requests a second", MOST_RATE), burstiness)
    parts = tuple(_stage(part, f"{source}: rate") for part in stages[1].split(","))
    seconds = sum(part.seconds for part in parts)
    requests = sum(part.rate * part.seconds for part in parts)
    if not 1 <= requests <= MOST_REQUESTS:
        raise InputError(f"{source}: rate: {requests:g} requests in all stages, expected 1 to {MOST_REQUESTS}")
    return Open(requests / seconds, burstiness, parts)


def _stage(text: str, source: str) -> Stage:
    rate, times, seconds = text.partition("x")
    if not times:
        raise InputError(f"{source}: {shown(text)}: expected RATExSECONDS, such as stages(2x60,8x120)")
    return Stage(number(rate, source, "requests a second", MOST_RATE), number(seconds, source, "seconds", MOST_PAUSE_S))


def class_of(given: Mapping[str, str], source: str, name: str = "", share: float = 1.0) -> RequestClass:
    """What the requests are. Raises InputError, naming `source` and the field."""
    prefix, groups, turns = given.get("shared_prefix"), given.get("groups"), given.get("turns")
    if turns is None and "think" in given and "concurrency" not in given:
        raise InputError(f"{source}: think {shown(given['think'])}: expected turns beside it, of a session")
    found = RequestClass(
        name,
        lengths(given["input"], f"{source}: input"),
        lengths(given["output"], f"{source}: output"),
        share,
        whole(prefix, f"{source}: shared_prefix", MOST_LENGTH, 0) if prefix is not None else 0,
        whole(groups, f"{source}: groups", MOST_REQUESTS) if groups is not None else 1,
        turns=ONCE if turns is None else parse_distribution(turns, f"{source}: turns", "requests", MOST_TURNS, 1),
        think_s=parse_distribution(given["think"], f"{source}: think", "seconds", MOST_PAUSE_S)
        if turns is not None and "think" in given
        else NO_PAUSE,
    )
    check_class(found, source)
    return found


def lengths(text: str, source: str) -> Distribution:
    """Tokens of a prompt or an answer."""
    return parse_distribution(text, source, "tokens", MOST_LENGTH, 1)


def whole(text: str, source: str, most: int, least: int = 1) -> int:
    """A whole number."""
    if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
        raise InputError(f"{source} {shown(text)}: expected a whole number from {least} to {most}")
    return int(text)


def number(text: str, source: str, unit: str, most: float) -> float:
    """A number above 0."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise InputError(f"{source} {shown(text)}: expected {unit} above 0, up to {most:g}")
    return value
