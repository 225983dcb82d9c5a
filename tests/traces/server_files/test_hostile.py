"""What no server wrote: each kind of file is read or refused in one line, in bounded time."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from quickness import quickly

from roofml.traces.server_files import READERS, is_server_file, read_server_files
from roofml.util.errors import InputError

STAMP = "INFO 02-26 06:50:32 [x.py:1] "
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "zeros": b"\0" * 100_000,
    "not text": b"\xff\xfe vllm serve a/b \xff\n" * 50,
    "gzip of garbage": gzip.compress(b"\x80\x81" * 1000),
    "cut gzip": gzip.compress(b"vllm serve a/b\n" * 1000)[:60],
    "gzip of 20 MB": gzip.compress(b"vllm serve a/b\n" + b"#" * 20_000_000, 1),
    "one long line": b"vllm serve a/b " + b"x" * 3_000_000,
    "commands without end": b"vllm serve a/b --x " * 20_000,
    "doubling variable": b"A=aaaa\n" + b'A="$A$A"\n' * 200 + b"vllm serve $A " + b"$A" * 1000,
    "paths without end": b"vllm serve " + b"a/" * 200_000 + b"\n",
    "brackets": b"x" * 10 + b"(" * 200_000 + b"\nvllm serve a\n",
    "nested defaults": b"vllm serve " + b"${A:-" * 20_000 + b"}" * 20_000,
    "log of brackets": f"{STAMP}non-default args: {{".encode() + b"[{(" * 100_000,
    "log of a process": b"(" + b"a " * 100_000 + f"\n{STAMP}x\n".encode(),
    "log of huge numbers": f"{STAMP}GPU KV cache size: {'9' * 400} tokens\n{STAMP}# GPU blocks: {'9' * 400}\n".encode(),
    "log of many starts": (f"{STAMP}Initializing a V1 LLM engine (v1) with config: model='a', x=1\n" * 20_000).encode(),
    "scrape of huge numbers": b"vllm:x 1e999\n",
    "scrape cut in a line": b'vllm:x{engine="0"} 1\nvllm:y{engi',
    "scrape of many labels": b"vllm:x{" + b'a="b",' * 100_000 + b"} 1\n",
    "scrape of open labels": b'vllm:x{a="' + b"\\" * 100_001 + b"\n",
    "yaml of brackets": b"services: vllm\nx: " + b"[" * 50_000,
    "yaml of aliases": b"services: vllm\na: &a [1]\nb: " + b"*a, " * 10,
    "yaml too large": b"services: vllm\n" + b"# a: 1\n" * 300_000,
    "server file of the future": b"schema: roofml-server/9\n",
    "server file cut": b"schema: roofml-server/1\nmodel: [a\n",
    "server file of huge numbers": b"schema: roofml-server/1\nmax_num_seqs: " + b"9" * 400 + b"\n",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_any_content_is_read_or_refused_soon_and_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[name])
    messages: list[str] = []
    with quickly(20, time.process_time):
        is_server_file(path)
        for reader in READERS.values():
            try:
                reader.facts(path)
            except InputError as error:
                messages.append(str(error))
    for message in messages:
        assert "\n" not in message
        assert str(path) in message
        assert len(message) < 1000


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for reader in READERS.values():
        with pytest.raises(InputError, match="no such file"):
            reader.facts(tmp_path / "absent")
    assert not read_server_files([tmp_path / "absent"]).facts
