"""Random inputs for every reader and for whole commands: nothing may crash, hang, leak or be silently nonsense.

    python benchmarks/fuzz.py                                             a minute of everything
    python benchmarks/fuzz.py --seconds 900 --jobs 2 --seed 7
    python benchmarks/fuzz.py --cases readers=1000000,commands=10000,fits=1000 --jobs 2
    python benchmarks/fuzz.py --target otlp --seed 7 --case 1234          one case again
    python benchmarks/fuzz.py --coverage 60                               a minute for each parser, guided by coverage

An input begins as a valid one and is changed in a few places, so that it comes far. What fails is made as small as it
can be and kept in a folder with the command that runs it again. The exit status is 1 if anything failed. Coverage
guides the bytes of the last form; it needs atheris.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fuzzing.campaign import KINDS, Plan, all_targets, campaign, prepare_process, watched
from fuzzing.coverage import run_guided
from fuzzing.target import Failure, Recipe, Target

GROUPS = ("readers", "commands", "fits")


def groups_of(targets: Sequence[Target]) -> dict[str, list[Target]]:
    """Group -> its targets."""
    from fuzzing.commands import COMMANDS, FITS

    special = {target.name for target in (*COMMANDS, *FITS)}
    return {
        "readers": [target for target in targets if target.name not in special],
        "commands": list(COMMANDS),
        "fits": list(FITS),
    }


def cases_of(text: str, targets: Sequence[Target]) -> dict[str, int]:
    """Target -> cases, of `readers=1000,commands=10` where a name is a group's or a target's."""
    groups = groups_of(targets)
    cases: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        chosen = groups.get(name) or [target for target in targets if target.name == name]
        if not chosen or not number.isdecimal():
            raise SystemExit(f"--cases {part}: expected NAME=NUMBER with {', '.join(groups)} or a target")
        total = sum(target.share for target in chosen)
        cases |= {target.name: max(1, round(int(number) * target.share / total)) for target in chosen}
    return cases


def again(name: str, seed: int, case: int) -> int:
    """Run one case again and say how it ends."""
    os.environ["ROOFML_TRACEBACK"] = "1"
    prepare_process()
    target = next((target for target in all_targets() if target.name == name), None)
    if target is None:
        raise SystemExit(f"--target {name}: expected one of {', '.join(target.name for target in all_targets())}")
    recipe = Recipe.of(seed, name, case)
    for file, raw in target.files(target.case(recipe)).items():
        print(f"--- {file}\n{raw[:3000].decode(errors='backslashreplace')}")
    result = watched(target, recipe)
    print(f"--- {result.kind}: {result.text}" if isinstance(result, Failure) else f"--- {result}")
    return isinstance(result, Failure)


def told(folder: Path) -> None:
    """Print each failure that was kept."""
    for path in sorted(folder.glob("*/failure.json")):
        failure = json.loads(path.read_text(encoding="utf-8"))
        last = failure["text"].strip().splitlines()[-1][:300]
        print(f"{failure['kind']} {failure['target']} ({failure['where']}): {last}\n    {failure['again']}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--seconds", type=float, default=None, help="wall-clock; default 60, or as long as --cases take"
    )
    parser.add_argument("--cases", default=None, help="readers=N,commands=N,fits=N, or TARGET=N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-failures"), help="where failing cases are kept")
    parser.add_argument("--target", help="with --case: run one case again")
    parser.add_argument("--case", type=int)
    parser.add_argument("--coverage", type=float, metavar="SECONDS", help="for each parser")
    arguments = parser.parse_args()
    if arguments.case is not None:
        return again(arguments.target, arguments.seed, arguments.case)
    if arguments.coverage is not None:
        return run_guided(arguments.coverage, arguments.folder)
    targets = all_targets()
    cases = cases_of(arguments.cases or "readers=100000000,commands=1000000,fits=100000", targets)
    seconds = arguments.seconds or (1e9 if arguments.cases else 60.0)
    folder = arguments.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"--folder {folder}: is not empty: move its failures away")
    started = time.monotonic()
    rows = campaign(Plan(arguments.seed, cases, seconds, arguments.jobs, folder), targets)
    names = ("cases", "seconds", "accepted", "refused", *KINDS)
    print(f"| target | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.0f}' for column in names)} |")
    failed = sum(row[kind] for row in rows.values() for kind in KINDS)
    total = sum(row["cases"] for row in rows.values())
    print(f"\nseed {arguments.seed}: {total:.0f} cases in {time.monotonic() - started:.0f} s, {failed:.0f} failed")
    told(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
