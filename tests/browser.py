"""A headless Chromium that tests talk to by its DevTools protocol over a pipe: no further package, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("ROOFML_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 60.0
NUMBERED = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
for number, pipe in zip((3, 4), pipes):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A program that becomes another, with two pipes where Chromium looks for them."""


class Browser:
    """One page of a browser. Every request that it makes is in `requested`."""

    def __init__(self, into: int, out: int) -> None:
        self.into, self.out, self.buffer, self.number, self.session = into, out, b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.out, 1 << 20)
            assert part, "the browser ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression as soon as it is true."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(script)

    def show(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Be a screen of this size and scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, path: Path) -> None:
        """Load a file and wait until its pictures are drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def screenshot(self) -> bytes:
        """The whole page, PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        )

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    @property
    def requested(self) -> list[str]:
        """Addresses that the page asked for, its own and those of data in it left out."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]

    @property
    def complaints(self) -> list[str]:
        """What went wrong in the page: exceptions, and what its own policy forbade."""
        found: list[str] = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found


@contextmanager
def browser() -> Generator[Browser]:
    """A browser, ended with the block."""
    assert CHROMIUM
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]

        # A process between gives the pipes their numbers: of code between fork and exec in this one JAX would warn.
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", NUMBERED, str(in_read), str(out_write), CHROMIUM, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds={in_read, out_write},
        )
        os.close(in_read)
        os.close(out_write)
        try:
            page = Browser(in_write, out_read)
            targets = page.call("Target.getTargets")["targetInfos"]
            target = next(t["targetId"] for t in targets if t["type"] == "page")
            page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            process.terminate()
            process.wait(30)
            os.close(in_write)
            os.close(out_read)
