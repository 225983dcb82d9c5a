"""The table of docs/formats.md: what each real file of a folder of samples is read as.

python benchmarks/formats_read.py ../shared/samples docs/formats.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roofml.traces.aggregate_run import RefusedRun
from roofml.traces.beside import files_in
from roofml.traces.read import AnyRun, read_all
from roofml.util.errors import InputError

BEGIN, END = "<!-- table of samples -->", "<!-- end of the table -->"
HEADINGS = ("file", "read as", "requests", "completed", "TTFT ms", "TPOT ms", "E2E ms", "how it can be used")


def main() -> None:
    """Print the table, or put it between the marks of the page that is given."""
    samples = Path(sys.argv[1])
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for path in files_in(samples, 4):
        lines += [f"| {' | '.join(cells)} |" for cells in rows(samples, path)]
    table = "\n".join(lines)
    if len(sys.argv) < 3:
        print(table)
        return
    page = Path(sys.argv[2])
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


def rows(samples: Path, path: Path) -> Iterator[tuple[str, ...]]:
    """The rows of a file: one a run, or one that says what else it is; none of what nothing reads."""
    name = f"`{path.relative_to(samples)}`"
    try:
        reading = read_all([path], strict=False, complete=False)
    except InputError:
        return
    for run in reading.every:
        yield (name, *of_run(run))
        name = ""
    for server in reading.servers:
        told = server.to_dict()
        known = [str(told[key]) for key in ("version", "model", "gpu") if told.get(key)]
        how = f"refused: {server.refused[:60]}" if server.refused else "tells of the server of runs beside it"
        yield name, "server", "", "", "", "", "", f"{how} ({', '.join(known)})"
        name = ""
    if reading.steps and not reading.servers:
        yield name, "steps", "", "", "", "", "", "steps, to fit or to judge"


def of_run(run: AnyRun) -> tuple[str, ...]:
    """The cells of a run after the file's name."""
    told = run.to_dict()
    times = [ms(told[f"mean_{kind}_us"]) for kind in ("ttft", "tpot", "e2e")]
    if told["format"] == "workload":
        how = "a load"
    elif isinstance(run, RefusedRun):
        how = f"refused: {run.reason.rpartition('/')[2]}"
    elif "aggregates" in told:
        how = "means: judged, fitted weakly" if told["unfit"] is None else "means: judged"
    else:
        how = "fitted and judged" if told["unfit"] is None else f"judged; not fitted: {told['unfit']}"
    return told["format"], str(told["requests"]), str(told["completed"]), *times, how


def ms(microseconds: Any) -> str:
    """Milliseconds, to four digits."""
    if microseconds is None:
        return "-"
    return f"{microseconds / 1e3:.4g}" if microseconds < 1e7 else f"{microseconds / 1e3:,.0f}"


if __name__ == "__main__":
    main()
