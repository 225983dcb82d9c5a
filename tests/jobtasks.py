"""Tasks of no weight, for tests of who does them: workers import this by name. As a program, it does many of them."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from roofml.jobs.cluster import Wanted
from roofml.jobs.kept import Kept
from roofml.jobs.places import LocalPlace
from roofml.jobs.work import Work
from roofml.util.errors import InputError

CODE = "of this test"


def square(task: dict[str, Any], code: str) -> dict[str, Any]:
    """The square of a number; or what else the task asks for."""
    if code != CODE:
        return {"other_code": CODE}
    if task.get("refuse"):
        raise InputError("this task refuses")
    if task.get("die"):
        os._exit(1)
    time.sleep(task.get("sleep_s", 0.0))
    if told := task.get("tell"):
        (Path(told) / f"{task['number']}-{os.getpid()}").touch()
    return {"result": {"square": task["number"] ** 2, "worker": os.getpid()}}


def work(
    folder: Path, stack: ExitStack, wanted: Wanted | None = None, *, in_turn: bool = False
) -> Work[dict[str, Any]]:
    """Work that keeps its results in a folder, on two processes unless told otherwise."""
    kept = Kept.below(LocalPlace(folder))
    return Work(kept, square, CODE, wanted or Wanted(workers=2), stack, in_turn=in_turn)


if __name__ == "__main__":
    with ExitStack() as outer:
        slow = {f"{n:04d}": {"number": n, "sleep_s": 0.2} for n in range(200)}
        work(Path(sys.argv[1]), outer).results(slow, lambda _key, _known: None)
