"""Asking the Hugging Face Hub, in the client library's own session, with every answer bounded in size and time.

The library's own calls read an answer to its end, however long and however slow it is, and follow redirects to wherever
they lead. So its session (which knows proxies, certificates and offline mode) is used, and the rest is done here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

LONGEST_S = 60.0
"""Most seconds that all questions of one pull take, s."""
LONGEST_SILENCE_S = 20.0
"""Most seconds without a byte, s."""
MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What the Hub said in the end."""

    status: int
    error_code: str
    """What is wrong, in the Hub's own word; empty where it says none."""
    commits: frozenset[str]
    """Every commit that an answer on the way said it was of."""
    body: bytes


def check_endpoint(endpoint: str) -> str:
    """Return the address of a Hub without a slash at its end. Raises InputError for what is none."""
    parts = urlsplit(endpoint) if endpoint.isprintable() and " " not in endpoint else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"HF_ENDPOINT: {endpoint!r}: expected the address of a Hub, as https://huggingface.co")
    return endpoint.rstrip("/")


def get(url: str, what: str, most: int, give_up_at: float) -> Answer:
    """Get at most `most` bytes until `give_up_at` on the monotonic clock; `what` begins an error's message.

    Raises InputError for too many bytes, for packed ones, and for a redirect to another host, TimeoutError, and what
    the session raises where the Hub cannot be reached.
    """
    from huggingface_hub.utils import build_hf_headers, get_session  # pyright: ignore[reportUnknownVariableType]

    # Packed answers are not asked for: a few bytes could unpack to gigabytes.
    headers = {**build_hf_headers(library_name="roofml"), "Accept-Encoding": "identity"}
    commits: set[str] = set()
    for _ in range(MOST_REDIRECTS + 1):
        call = get_session().stream("GET", url, headers=headers, timeout=LONGEST_SILENCE_S, follow_redirects=False)
        with call as response:
            commits |= {response.headers[name] for name in ("x-repo-commit",) if name in response.headers}
            if response.status_code in REDIRECTS and "location" in response.headers:
                url = _followed(url, response.headers["location"], what)
                continue
            body = _body(response, what, most, give_up_at)
            code = response.headers.get("x-error-code", "")
            return Answer(response.status_code, code, frozenset(commits), body)
    raise InputError(f"{what}: the Hub redirects more than {MOST_REDIRECTS} times")


def _followed(url: str, location: str, what: str) -> str:
    """Return where a redirect leads. Raises InputError for another host: it would be asked, and told the token."""
    target = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(target)
    same_host = here.hostname == there.hostname
    upgraded = (here.scheme, there.scheme) == ("http", "https")
    if not same_host or not (upgraded or (here.scheme, here.port) == (there.scheme, there.port)):
        raise InputError(f"{what}: the Hub redirects to another host, {for_line(target)[:200]}: not followed")
    return target


def _body(response: Any, what: str, most: int, give_up_at: float) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise InputError(f"{what}: the Hub sends packed bytes that were not asked for")
    said = response.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and (len(said) > 15 or int(said) > most):
        raise InputError(f"{what}: {said[:15]} bytes, expected at most {most}")
    pieces: list[bytes] = []
    size = 0
    for piece in response.iter_raw():
        size += len(piece)
        if size > most:
            raise InputError(f"{what}: more bytes than expected, at most {most}")
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not done after {LONGEST_S:g} s")
        pieces.append(piece)
    return b"".join(pieces)


def within(seconds: float, job: Callable[[], T]) -> T:
    """Return what the job returns or raise what it raises; TimeoutError if it takes longer.

    The job is then left behind in its thread: a server that sends a byte of its headers now and then, or a name that
    is looked up for minutes, holds the HTTP library where nobody can interrupt it.
    """
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, job()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=run, name="roofml-hub", daemon=True).start()
    try:
        succeeded, result = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"not done after {seconds:g} s") from None
    if not succeeded:
        raise result
    return result
