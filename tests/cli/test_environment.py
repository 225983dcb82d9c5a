"""A shell that was set up for other programs, and a machine where nothing can be cached, change no figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ROOT

pytestmark = pytest.mark.slow

FOR_OTHERS = {
    "JAX_PLATFORMS": "cuda",
    "JAX_ENABLE_X64": "0",
    "JAX_DISABLE_JIT": "1",
    "JAX_DEBUG_NANS": "1",
    "XLA_FLAGS": "--bogus",
    "NUMBA_DISABLE_JIT": "1",
    "PYTHONIOENCODING": "ascii",
    "LC_ALL": "C",
    "TERM": "dumb",
    "HOME": "/nowhere",
    "XDG_CACHE_HOME": "/nowhere",
    "TMPDIR": "/nowhere",
}


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, check=False, timeout=200, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_fit_is_the_same_whatever_the_shell_exports(folder: Path, coeffs: Path) -> None:
    done = python("-m", "roofml.cli.start", "fit", folder, "--gpu", "H100", **FOR_OTHERS)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == coeffs.read_bytes()


def test_the_library_needs_no_gpu_that_the_shell_asks_for(folder: Path, coeffs: Path) -> None:
    """As in a notebook, where nobody cleans the environment."""
    code = "import sys, roofml; print(roofml.fit([roofml.read_run(sys.argv[1], gpu='H100')]).to_yaml(), end='')"
    done = python("-c", code, folder, JAX_PLATFORMS="cuda", JAX_ENABLE_X64="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == coeffs.read_bytes()


SERVED = """
import sys
import numpy as np
from numba.core import caching
from roofml.util.jit_cache import compiled

def refuse(*_, **__):
    raise OSError(28, "No space left on device")

{damage}

@compiled()
def triple(x):
    return 3 * x

@compiled(nogil=True)
def sextuple(x):
    return 2 * triple(x)

print(sextuple(np.arange(3)).tolist())
"""


@pytest.mark.parametrize(
    "damage",
    [
        "caching.IndexDataCacheFile.save = refuse",
        "caching.IndexDataCacheFile.load = refuse",
        "caching.CacheImpl._locator_classes = []",
    ],
    ids=["full disk", "unreadable", "no place that can be written to"],
)
def test_a_function_is_compiled_where_it_cannot_be_kept(tmp_path: Path, damage: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SERVED.format(damage=damage))
    done = python(script, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (0, b"[0, 6, 12]\n"), done.stderr
    assert not list((tmp_path / "cache").rglob("*.nb?")) or "load" in damage


def test_a_broken_cache_is_compiled_anew_and_mended(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SERVED.format(damage=""))
    for content in (None, b"", b"\x80garbage"):
        for file in (tmp_path / "cache").rglob("*.nb?"):
            if content is not None:
                file.write_bytes(content)
        done = python(script, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert (done.returncode, done.stdout) == (0, b"[0, 6, 12]\n"), done.stderr
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_without_compilation_a_function_is_python(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SERVED.format(damage=""))
    assert python(tmp_path / "script.py", NUMBA_DISABLE_JIT="1").stdout == b"[0, 6, 12]\n"


def test_output_that_goes_to_a_file_is_utf_8_in_every_locale() -> None:
    line = ("-m", "roofml.cli.start", "predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x8")
    first, second = (python(*line, **locale).stdout for locale in ({"LC_ALL": "C.UTF-8"}, FOR_OTHERS))
    assert first == second
    assert "µs" in first.decode()
