"""Forwards: exact batches that `vllm bench forward` timed on a GPU, and what its file says of each.

Layout, from vLLM 0.33 (vllm/benchmarks/forward/main.py, capture.py): a list of cases `{case, requests [{query_len,
kv_len, num_draft_tokens, chunked}], median_us, ranks [{num_tokens, kv_blocks, routing, timing_scope, latency_us {timer,
median, mean, std, min, p90, count, samples_us, sample_spread_pct}, profile (optional), ...}]}`. A replay's latency is
the longest of all ranks, and the same number stands in each. `requests` are what was run: lengths that
`--kv-len-jitter` drew have been drawn. GPU, tensor parallel size, version and type are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self, cast

from roofml.traces.finding import Finding
from roofml.traces.formats.peek import peek
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.server import Server, ServerOverrides, flags_for
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, as_object, read_bytes, read_json, read_json_object

FORMAT = "vllm-forward"
TIMERS = ("graph_events", "graph_events_rank_max")
"""Both are the time of the model's forward between two events inside its CUDA graph, the longest of the ranks."""
FIRST_RELEASE = "0.33.0"
"""The first vLLM with this benchmark: taken where nobody says another."""
MOST_CASES, MOST_REQUESTS = 100_000, MOST_OF_SERVER["max_num_seqs"]
LONGEST = 10**9
"""Tokens of a request."""
MOST_US = 1e9
UNSTABLE_PCT = 0.5
"""Spread of the five samples' medians from which on the benchmark itself calls a timing unstable."""


@dataclass(frozen=True)
class TimedRequest:
    """One request of a case."""

    new_tokens: int
    context: int
    """Tokens in the KV cache when the step begins."""
    drafts: int = 0
    """Draft tokens that it verifies."""
    chunked: bool = False
    """Its context was computed by earlier chunks of its prompt; else, of a prefill, the prefix cache had it."""

    @property
    def decodes(self) -> bool:
        """Whether it decodes or verifies; else it computes its prompt."""
        return self.context > 0 and self.new_tokens == 1 + self.drafts


@dataclass(frozen=True, eq=False)
class ForwardCase:
    """A batch that was timed."""

    name: str
    requests: Sequence[TimedRequest]
    median_us: float
    """Of all replays, the longest of the ranks each."""
    spread_pct: float
    """Largest less smallest median of the benchmark's samples, over the median."""
    routing: str
    """`balanced`: experts chosen evenly, whatever the weights; `real`: by the weights, which may be dummies."""
    kernels: Mapping[str, float] = field(default_factory=dict[str, float])
    """Name -> µs a forward of the first rank, where they were traced; of a file alone the ten longest."""

    @property
    def new_tokens(self) -> int:
        """Tokens that it computes."""
        return sum(request.new_tokens for request in self.requests)


@dataclass(frozen=True)
class ForwardServer:
    """What the cases ran on, as far as anybody says: the file itself does not."""

    model: str | None = None
    gpu: str | None = None
    tensor_parallel: int | None = None
    engine_version: str | None = None
    kv_dtype: str | None = None

    @classmethod
    def told(cls, overrides: ServerOverrides, beside: Server | None = None) -> Self:
        """From the user's word, and where he says nothing from a run that is fitted with it.

        But for the version: the server of the run may have been older than the benchmark.
        """
        said = {each.name: overrides.said(each.name)[0] for each in fields(cls)}
        if beside is not None:
            alike = {name for name, value in said.items() if value is None and name != "engine_version"}
            said |= {name: getattr(beside, name) for name in alike}
        return cls(**said)  # pyright: ignore[reportArgumentType]  # ServerOverrides has checked each

    @property
    def missing(self) -> list[str]:
        """What nobody says and a fit needs."""
        return [name for name in ("model", "tensor_parallel", "gpu") if getattr(self, name) is None]


@dataclass(frozen=True, eq=False)
class Forwards:
    """The cases of one file."""

    name: str
    cases: Sequence[ForwardCase]
    ranks: int
    identity: str
    """Digest of the file."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Case -> why no fit can use it."""
    drawn: bool = False
    """Whether lengths were drawn (`--kv-len-jitter`): equal requests of a case then differ."""
    server: ForwardServer = field(default_factory=ForwardServer)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What its reader should know."""
        return tuple(_findings(self))

    @property
    def headline(self) -> str:
        """What it holds, in a line."""
        of = "1 GPU" if self.ranks == 1 else f"{self.ranks} GPUs"
        return f"{FORMAT}; {len(self.cases)} exact batches timed on {of}"

    def to_dict(self) -> dict[str, Any]:
        """As `roofml doctor --json` prints it, beside runs: no request was sent and none was answered."""
        spreads = sorted(case.spread_pct for case in self.cases)
        return {
            "run": self.name,
            "format": FORMAT,
            "model": self.server.model,
            "gpu": self.server.gpu,
            "tp": self.server.tensor_parallel,
            "ranks": self.ranks,
            "requests": 0,
            "completed": 0,
            "mean_ttft_us": None,
            "mean_tpot_us": None,
            "mean_e2e_us": None,
            "cases": len(self.cases),
            "spread_pct": spreads[len(spreads) // 2] if spreads else None,
            "routing": sorted({case.routing for case in self.cases}),
            "lengths_drawn": self.drawn,
            "kernels": any(case.kernels for case in self.cases),
            "left_out": dict(self.left_out),
            "missing": self.server.missing,
            "findings": [vars(finding) for finding in self.findings],
        }


def detect(path: Path) -> bool:
    """Whether `path` looks like a file that `vllm bench forward --output-json` wrote."""
    head = peek(path)
    return head.is_list and head.has("case", "requests", "requests.query_len", "requests.kv_len")


def read(path: Path) -> Forwards:
    """The cases in `path`. Raises InputError naming case and field for what no benchmark can have written.

    A case that a fit cannot use (drafts, replayed prefixes, a pipeline) is in `left_out`, with the reason; where that
    is all of them, InputError says the first one's.
    """
    document = read_json(path, MOST_BYTES_OF_A_TABLE)
    if not isinstance(document, list) or not document:
        raise InputError(f"{path}: expected a list of cases, as `vllm bench forward --output-json` writes")
    entries = cast("list[object]", document)
    if len(entries) > MOST_CASES:
        raise InputError(f"{path}: {len(entries)} cases, expected at most {MOST_CASES}")
    cases: list[ForwardCase] = []
    left_out: dict[str, str] = {}
    sizes: set[int] = set()
    for number, entry in enumerate(entries):
        case, ranks, why = _case(path, as_object(entry, f"{path}: case {number + 1}"), number)
        sizes.add(ranks)
        if why:
            left_out[case.name] = why
        else:
            cases.append(case)
    if len(sizes) > 1:
        raise InputError(f"{path}: cases of {' and '.join(map(str, sorted(sizes)))} ranks, expected one server's")
    if not cases:
        raise InputError(f"{path}: no case that can be used: {next(iter(left_out.values()))}")
    drawn = any(_drawn(case) for case in cases)
    return Forwards(path.stem, cases, sizes.pop(), digest(read_bytes(path, MOST_BYTES_OF_A_TABLE)), left_out, drawn)


def _drawn(case: ForwardCase) -> bool:
    """Whether requests of one kind have contexts of many lengths."""
    contexts = [request.context for request in case.requests if request.decodes]
    return len(contexts) >= 4 and len(set(contexts)) > 0.5 * len(contexts)


def _case(path: Path, entry: Mapping[str, Any], number: int) -> tuple[ForwardCase, int, str]:
    """A case, on how many ranks it ran, and why no fit can use it, or nothing."""
    name = entry.get("case")
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: case {number + 1}: case is {shown(name)}, expected its name")
    where = f"{path}: case {shown(name)}: "
    requests = [_request(where, as_object(each, f"{where}request")) for each in _list(where, entry, "requests")]
    if len(requests) > MOST_REQUESTS:
        raise InputError(f"{where}{len(requests)} requests, expected at most {MOST_REQUESTS}")
    ranks = [as_object(each, f"{where}rank") for each in _list(where, entry, "ranks")]
    first = ranks[0]
    latency = as_object(first.get("latency_us"), f"{where}latency_us")
    median = _number(where, latency, "median", 0.0, MOST_US)
    if "median_us" in entry and abs(_number(where, entry, "median_us", 0.0, MOST_US) - median) > 1e-3 * median:
        raise InputError(f"{where}median_us {entry['median_us']:g} is not the {median:g} of its first rank")
    spread = _number(where, latency, "sample_spread_pct", -1e-9, 1e6)
    routing = first.get("routing")
    if routing not in ("balanced", "real"):
        raise InputError(f"{where}routing is {shown(routing)}, expected balanced or real")
    case = ForwardCase(name, requests, median, spread, str(routing), _kernels(path, where, first))
    return case, len(ranks), _unusable(case, first, str(latency.get("timer")))


def _unusable(case: ForwardCase, rank: Mapping[str, Any], timer: str) -> str:
    if timer not in TIMERS:
        return f"it was timed by {shown(timer)}: of a pipeline no stage's time is known; expected {' or '.join(TIMERS)}"
    if any(request.drafts for request in case.requests):
        return "it verifies draft tokens: time plain batches, no fit takes drafts yet"
    if rank.get("timing_scope", "target_only") != "target_only":
        return "a drafter's time is in it: run the benchmark with --exclude-drafter"
    computed = rank.get("num_tokens")
    if isinstance(computed, int) and computed != case.new_tokens:
        return f"{computed} tokens were computed for the {case.new_tokens} asked for: prefixes were replayed"
    return ""


def _request(where: str, entry: Mapping[str, Any]) -> TimedRequest:
    """A request, by the rules of vLLM's own `BenchRequest`."""
    new = _whole(where, entry, "query_len", 1)
    kv = _whole(where, entry, "kv_len", 1)
    drafts = _whole(where, entry, "num_draft_tokens", 0) if "num_draft_tokens" in entry else 0
    chunked = entry.get("chunked", False)
    if not isinstance(chunked, bool):
        raise InputError(f"{where}chunked is {shown(chunked)}, expected true or false")
    if kv < new:
        raise InputError(f"{where}kv_len {kv} is less than query_len {new}, expected the length after the step")
    request = TimedRequest(new, kv - new, drafts, chunked)
    if (drafts and not request.decodes) or (chunked and (request.decodes or not request.context)):
        raise InputError(f"{where}no benchmark runs query_len {new}, kv_len {kv}, {drafts} drafts, chunked {chunked}")
    return request


def _kernels(path: Path, where: str, rank: Mapping[str, Any]) -> dict[str, float]:
    """µs a forward by kernel: of the summary beside the file where it is there, else the longest, from the file."""
    if "profile" not in rank:
        return {}
    profile = as_object(rank["profile"], f"{where}profile")
    summary = PurePosixPath(str(profile.get("summary", "")))
    beside = (path.parent / summary.name, path.parent / summary.parent.name / summary.name)
    found = next((file for file in beside if summary.name and file.is_file()), None)
    source = read_json_object(found) if found is not None else profile
    key = "kernels" if found is not None else "top_kernels"
    times: dict[str, float] = {}
    listed = cast("object", source.get(key))
    for each in cast("list[object]", listed) if isinstance(listed, list) else []:
        kernel = as_object(each, f"{where}{key}")
        name = str(kernel.get("name"))[:300]
        times[name] = times.get(name, 0.0) + _number(where, kernel, "us", -1e-9, MOST_US)
    return times


def _list(where: str, entry: Mapping[str, Any], name: str) -> list[object]:
    value = cast("object", entry.get(name))
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}{name} is {shown(cast('object', value))}, expected a list with something in it")
    return cast("list[object]", value)


def _number(where: str, entry: Mapping[str, Any], name: str, above: float, most: float) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
        raise InputError(f"{where}{name} is {shown(value)}, expected a number above {above:.0f}, up to {most:g}")
    return float(value)


def _whole(where: str, entry: Mapping[str, Any], name: str, least: int) -> int:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LONGEST:
        raise InputError(f"{where}{name} is {shown(value)}, expected a whole number from {least} to {LONGEST}")
    return value


def _findings(read: Forwards) -> Iterator[Finding]:
    decodes = sum(all(request.decodes for request in case.requests) for case in read.cases)
    prompts = sum(not any(request.decodes for request in case.requests) for case in read.cases)
    mixed = len(read.cases) - decodes - prompts
    tokens = [case.new_tokens for case in read.cases]
    yield Finding(
        "forward-cases",
        "info",
        f"{decodes} batches decode, {prompts} compute prompts, {mixed} do both; {min(tokens)} to {max(tokens)} tokens.",
        {"decode": decodes, "prefill": prompts, "mixed": mixed},
        "The forward alone is in it: no sampler, no LM head, no CPU, no padding to captured sizes, nothing compiled.",
    )
    unstable = [case.name for case in read.cases if case.spread_pct > UNSTABLE_PCT]
    widest = max(case.spread_pct for case in read.cases)
    if unstable:
        yield Finding(
            "unstable-timing",
            "warning",
            f"{len(unstable)} of {len(read.cases)} cases spread by more than {UNSTABLE_PCT} %, up to {widest:.1f}.",
            {"cases": unstable[:20], "spread_pct": widest},
            "They weigh less in a fit. A GPU of one's own at steady clocks has less.",
        )
    if read.drawn:
        yield Finding(
            "lengths-drawn",
            "info",
            "Contexts of equal requests differ: they were drawn (--kv-len-jitter), and are read as they were run.",
            {},
            "With --kv-len-jitter 0 the batches are those that were asked for.",
        )
    real = [case.name for case in read.cases if case.routing == "real"]
    if real:
        yield Finding(
            "routing-real",
            "info",
            f"{len(real)} cases chose experts by the model's weights, which are dummies unless it was told otherwise.",
            {"cases": len(real)},
            "Of a mixture such a case says little of its experts; of a dense model it does not matter.",
        )
    for name, why in read.left_out.items():
        yield Finding("case-left-out", "warning", f"{name}: {why}.", {"case": name}, "The others are used.")


def on_their_server(forwards: Forwards, overrides: ServerOverrides, beside: Server | None, complete: bool) -> Forwards:
    """The cases with what they ran on. With `complete`, InputError says in one message all that nobody says."""
    server = ForwardServer.told(overrides, beside)
    if complete and server.missing:
        raise InputError(
            f"{forwards.name}: {', '.join(server.missing)}: a file of `vllm bench forward` does not say it; give "
            f"{flags_for(server.missing)}"
        )
    if server.tensor_parallel not in (None, forwards.ranks):
        raise InputError(
            f"{forwards.name}: timed on {forwards.ranks} ranks, and the tensor parallel size is "
            f"{server.tensor_parallel}: expected as many; data-parallel engines are not fitted"
        )
    return replace(forwards, server=server)
