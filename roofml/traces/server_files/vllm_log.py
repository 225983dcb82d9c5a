"""Reader: vLLM's start-up log, alone or within the output of a job: version, settings, KV cache, CUDA graphs, backend.

A record is `(EngineCore_0 pid=7) INFO 09-04 01:29:26 [kv_cache_utils.py:849] GPU KV cache size: 464,848 tokens`, with
colours, a prefix of docker's or Ray's, or none. Terminals and pagers wrap it at their width, in mid-word and in
mid-number: such a file has many lines of one greatest length, and what follows one of them belongs to it. (Where
colours were cut out of a wrapped log, lines that had some are shorter by them.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from roofml.traces.finding import Finding
from roofml.traces.server_files.arguments import facts_of
from roofml.traces.server_files.literals import balanced, mapping_of, pairs, value_of
from roofml.traces.server_files.said import Said
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, first_bytes, open_file

HEAD = 65_536
"""Bytes by which a log is recognised and its wrapping judged."""
LONGEST_LINE = 262_144
"""Bytes of one line that are read; the longest start-up line has 6,000 characters."""
LONGEST_RECORD = 400_000
MOST_STARTS = 100
"""Starts of an engine in one log that are looked at; data-parallel ones start one each."""
NARROWEST, WIDEST = 60, 400
"""Widths, in characters, at which people's terminals wrap."""
COLOURS = 24
"""Most characters of colour codes in a line that was wrapped before they were cut out."""

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_RECORD = re.compile(
    r"\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[?[\w./]+\.py:\d+\] ?"
)
_OTHER = re.compile(r"^(?:\S{1,80} +\| +)?\([\w ]{1,80} pid=\d+[^)]{0,200}\)")
_OF_INTEREST = re.compile(
    r"LLM engine|args: |version|batched_tokens|scheduling is|KV cache|blocks: |concurrency for|block size|backend"
    r"|device_name|MiB|throughput: |Error|failed"
)
"""One of these stands in every record that says something."""
_STARTS = re.compile(r"Initializing an? (?:(V[01]) )?LLM engine \(v?([^)\s]+)\) with config: ")
_ASKED = re.compile(r"non-default args: (?=\{)|\bargs: Namespace(?=\()")
_VERSION = re.compile(r"vLLM API server version v?(\d[\w.+-]*)|█\s+version v?(\d[\w.+-]*)")
_BUDGET = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d{1,12})")
_ASYNC = re.compile(r"Asynchronous scheduling is (enabled|disabled)")
_TOKENS = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
_BLOCKS = re.compile(r"# (?:GPU|CUDA) blocks: (\d{1,12})")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: (\d{1,12}(?:\.\d{1,12})?)x")
_BLOCK_SIZE = re.compile(r"(?:kv cache|attention) block size to (\d{1,12})")
_BACKEND = re.compile(
    r"Using (?:AttentionBackendEnum\.)?([A-Z][\w]*|Flash Attention|FlashInfer) (?:attention )?backend"
)
_DEVICE = re.compile(r"device_name=([\w.-]+?)(?:,|\.json)")
_SMI = re.compile(r"\b(?:NVIDIA|AMD) ([A-Za-z][\w .-]{1,40}?), (\d{4,6}) MiB")
_STATS = re.compile(r"Avg prompt throughput: .*?Running: (\d{1,12}) reqs, Waiting: (\d{1,12}) reqs")
_FAILED = re.compile(r"\b\w+Error: .*|Engine core initialization failed.*")

SIZED_BY_MEMORY = {"H100": 80, "H800": 80, "A100": 80, "A800": 80}
"""Names that a driver gives cards of several sizes, and the size, GB, that the bare name is taken for."""
BLOCK_SIZE = 16
"""Tokens of a KV block that vLLM takes on a GPU where no line names another (vllm/config/cache.py)."""


def detect(path: Path) -> bool:
    """Whether a file holds records of vLLM's log in its first 64 KiB."""
    return bool(_RECORD.search(_plain(first_bytes(path, HEAD).decode("utf-8", "replace"))))


def facts(path: Path) -> Said:
    """What the log says of its server. Where it started several times, the last start counts and a finding says so.

    Raises InputError if the file cannot be read.
    """
    log = _Log()
    for record in records(path):
        log.note(record)
    return log.said()


def records(path: Path) -> Iterator[str]:
    """The texts of the log's records, without colours and prefixes, wrapped ones whole; other output line by line."""
    full = _full_lines(path)
    parts: list[str] = []
    before = 0  # length of the line before
    for line in _lines(path):
        found = _RECORD.search(line)
        if not found and parts and before in full and not _OTHER.match(line):
            if sum(map(len, parts)) < LONGEST_RECORD:
                parts += [" " * full[before], line]  # a space at the edge may have been cut off
        else:
            yield "".join(parts)
            parts = [line[found.end() :] if found else line]
        before = len(line)
    yield "".join(parts)


def _lines(path: Path) -> Iterator[str]:
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        while raw := file.readline(LONGEST_LINE):
            yield _plain(raw.decode("utf-8", "replace").rstrip("\n"))


def _plain(text: str) -> str:
    return _COLOUR.sub("", text) if "\x1b" in text or "\r" in text else text


def _full_lines(path: Path) -> dict[int, int]:
    """Length of a line that goes on in the next -> spaces cut off at its end; none where lines were not wrapped."""
    lines = _plain(first_bytes(path, HEAD).decode("utf-8", "replace")).split("\n")[:-1]
    lengths = Counter(len(line) for line in lines)
    longest = max(lengths, default=0)
    if not (NARROWEST <= longest <= WIDEST and lengths[longest] >= 3):
        return {}
    full = {length: 0 for length, lines in lengths.items() if lines >= 3 and length >= longest - COLOURS}
    return {longest - 1: 1} | full


class _Log:
    """What the records say so far."""

    def __init__(self) -> None:
        self.starts: list[dict[str, str]] = []
        """Settings of each engine that started; of data-parallel ones, several."""
        self.asked: dict[str, object] = {}
        self.version = self.engine_tag = self.failure = ""
        self.facts: dict[str, object] = {}
        self.tokens: set[int] = set()
        self.blocks: set[int] = set()
        self.concurrency: set[tuple[int, float]] = set()
        self.gpus: list[str] = []
        self.stats_lines = self.running = self.waiting = 0

    def note(self, text: str) -> None:
        """Take from a record what it says."""
        if not _OF_INTEREST.search(text):
            return
        if len(self.starts) < MOST_STARTS and (found := _STARTS.search(text)):
            self._start(found[1] or "", found[2], text[found.end() :])
        if len(self.starts) < MOST_STARTS and (found := _ASKED.search(text)):
            part = balanced(text, found.end())
            given = {name: value_of(value) for name, value in pairs(part[1:-1], "=").items()}
            self.asked = given if part.startswith("(") else mapping_of(part)
        if found := _VERSION.search(text):
            self.version = found[1] or found[2]
        if found := _BUDGET.search(text):
            self.facts["max_num_batched_tokens"] = int(found[1])
        if found := _ASYNC.search(text):
            self.facts["async_scheduling"] = found[1] == "enabled"
        if found := _TOKENS.search(text):
            self.tokens |= {_count(found[1])}
        if found := _BLOCKS.search(text):
            self.blocks |= {int(found[1])}
        if found := _CONCURRENCY.search(text):
            self.concurrency |= {(_count(found[1]), float(found[2]))}
        if found := _BLOCK_SIZE.search(text):
            self.facts["block_size"] = int(found[1])
        if found := _BACKEND.search(text):
            self.facts.setdefault("attention_backend", found[1].upper().replace(" ", "_"))
        if found := _STATS.search(text):
            self.stats_lines += 1
            self.running, self.waiting = max(self.running, int(found[1])), max(self.waiting, int(found[2]))
        if (found := _DEVICE.search(text)) and found[1] not in self.gpus:
            self.gpus.append(found[1])
        for name, memory in _SMI.findall(text):
            gpu = _sized(name.strip(), int(memory))
            if gpu not in self.gpus:
                self.gpus.append(gpu)
        said_why = _FAILED.search(text) if "Error" in text or "failed" in text else None
        if said_why and (not self.failure or "initialization failed" not in said_why[0]):
            self.failure = said_why[0]

    def _start(self, tag: str, version: str, config: str) -> None:
        self.engine_tag, self.version = tag, version
        values = pairs(config, "=")
        if self.starts and values != self.starts[-1]:
            self.tokens, self.blocks, self.concurrency = set(), set(), set()
        self.starts.append(values)

    def said(self) -> Said:
        """All of it, as facts."""
        found, findings = facts_of(self.asked)
        config, of_config = facts_of(self._config())
        # What was asked names the model as people know it; the engine may have been handed a folder.
        found = found | {name: value for name, value in config.items() if name != "model" or name not in found}
        found |= self.facts
        if self.version:
            found |= {"engine": "vllm", "engine_version": self.version}
        # The engine prints the checkpoint's own quantization too.
        resolved = [finding for finding in of_config if finding.code != "quantized-at-load"]
        by_summary = {finding.summary: finding for finding in (*findings, *resolved, *self._of_starts())}
        by_summary |= {finding.summary: finding for finding in self._kv_cache(found)}
        if len(self.gpus) == 1:
            found["gpu"] = self.gpus[0]
        elif self.gpus:
            more = _several_gpus(self.gpus)
            by_summary[more.summary] = more
        observed: dict[str, float | None] = {}
        if self.stats_lines:
            observed = {"stats_lines": self.stats_lines, "max_running": self.running, "max_waiting": self.waiting}
        return Said(found, tuple(by_summary.values()), self._refused(found), observed)

    def _config(self) -> dict[str, object]:
        """Settings of the engine, as it printed them resolved."""
        if not self.starts:
            return {}
        printed = self.starts[-1]
        config: dict[str, object] = {name: value_of(value) for name, value in printed.items()}
        if printed.get("compilation_config", "").startswith("{"):
            config["compilation_config"] = mapping_of(printed["compilation_config"])
        config.pop("served_model_name", None)  # the resolved name, where nobody gave another
        return {name: value for name, value in config.items() if value != "None"}

    def _kv_cache(self, found: dict[str, object]) -> Iterator[Finding]:
        """Add what is known of the KV cache. `num_gpu_blocks` is left out where tokens are no measure of blocks."""
        if self.concurrency:
            found["kv_cache_requests"] = min(times for _, times in self.concurrency)
        if self.tokens:
            found["kv_cache_tokens"] = min(self.tokens)
        if self.blocks:
            found["num_gpu_blocks"] = min(self.blocks)
        if self.starts and "block_size" not in found:
            found["block_size"] = BLOCK_SIZE
        several = sorted(self.tokens or self.blocks)
        if len(several) > 1:
            yield Finding(
                "kv-cache-by-worker",
                "info",
                f"Workers report KV caches of {several[0]} to {several[-1]} {'tokens' if self.tokens else 'blocks'}.",
                {"smallest": several[0], "largest": several[-1]},
                "The smallest is taken: every worker holds as many blocks as that one.",
            )
        size = found.get("block_size")
        if not self.tokens or self.blocks or not isinstance(size, int):
            return
        tokens = min(self.tokens)
        if _is_plain(tokens, size, min(self.concurrency, key=lambda one: one[1]) if self.concurrency else None):
            found["num_gpu_blocks"] = tokens // size
            return
        yield Finding(
            "kv-tokens-not-blocks",
            "warning",
            f"The log's {tokens} tokens of KV cache are no multiple of blocks of {size}, or disagree with its maximum "
            f"concurrency: the model mixes kinds of layers, or requests of max_model_len were counted.",
            {
                "kv_cache_tokens": tokens,
                "block_size": size,
                "requests": min((t for _, t in self.concurrency), default=0),
            },
            "num_gpu_blocks was left out: take it from /metrics (cache_config_info), or give --num-gpu-blocks.",
        )

    def _of_starts(self) -> Iterator[Finding]:
        different: list[dict[str, str]] = []
        for start in self.starts:
            if start not in different:
                different.append(start)
        if len(different) < 2:
            return
        names = {name for one in different for name in one if len({start.get(name) for start in different}) > 1}
        yield Finding(
            "several-starts",
            "warning",
            f"The log holds {len(different)} starts with other settings ({for_line(', '.join(sorted(names)))[:200]}).",
            {"starts": len(different)},
            "The last one was taken. Give one log a server, or the flags of the run.",
        )

    def _refused(self, found: dict[str, object]) -> str | None:
        """Why no run of this server can be used."""
        if self.engine_tag == "V0":
            return f"vLLM {self.version} ran its V0 engine, which has another scheduler"
        if self.starts and not (self.tokens or self.blocks):
            reason = f": {for_line(self.failure)[:200]}" if self.failure else ""
            return f"the server never started: no line gives the size of its KV cache{reason}"
        if self.starts and self.starts[-1].get("device_config") == "cpu":
            return "the server ran on a CPU (device_config=cpu), expected a GPU"
        return None


def _is_plain(tokens: int, size: int, concurrency: tuple[int, float] | None) -> bool:
    """Whether `tokens` is a number of blocks times their size, as it is where all layers keep every token.

    Then requests of the longest length, which take whole blocks, fit as often as the log says, to its two decimals.
    """
    if tokens % size:
        return False
    if concurrency is None:
        return True
    length, times = concurrency
    fit = (tokens // size) / -(-length // size)
    return abs(fit - times) <= 0.0051


def _several_gpus(gpus: list[str]) -> Finding:
    listed = ", ".join(gpus[:5])
    return Finding(
        "several-gpus",
        "warning",
        f"The log names several GPUs ({listed}), and not which served.",
        {"gpus": gpus[:5]},
        "None was taken: give --gpu.",
    )


def _sized(name: str, mebibytes: int) -> str:
    """A driver's name of a GPU, with its memory where the bare name is taken for another size."""
    size = SIZED_BY_MEMORY.get(name)
    if size is None:
        return name
    own = round(mebibytes * 2**20 / 1e9 / 4) * 4 if mebibytes < 90_000 else round(mebibytes / 1024)
    return name if abs(own - size) <= 6 else f"{name}-{round(mebibytes / 1024)}GB"


def _count(text: str) -> int:
    return int(text.replace(",", "")[:18] or 0)
