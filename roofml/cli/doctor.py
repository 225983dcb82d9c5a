"""roofml doctor: what a trace really says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from roofml.cli import options as o
from roofml.cli.console import OUT, print_findings, print_json, say_why, show, working

if TYPE_CHECKING:
    from roofml.traces.forwards import Forwards
    from roofml.traces.read import AnyRun
    from roofml.traces.server import ServerOverrides

UNUSABLE = 2
"""Exit status where nothing that was given can be used."""


@o.server_options
def doctor(
    runs: o.Runs,
    overrides: ServerOverrides,
    write_server: Annotated[
        Path | None,
        typer.Option("--write-server", help="File (YAML) for what is known of the server: `--server FILE`."),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what traces, or sampled steps, really contain: traps found, what was corrected, what could not be.

    Files of a server alone (its log, a scrape of /metrics, a manifest) are told of too.
    """
    from roofml.traces.read import read_all
    from roofml.traces.server_files.server_file import check_target, described, with_flags
    from roofml.traces.server_files.server_file import write_server as write
    from roofml.traces.steps.sampling import sampling_reports

    if write_server is not None:
        check_target(write_server)
    with working(quiet or as_json, "reading"):
        reading = read_all(runs, overrides, strict=False, complete=False)
        samplings = sampling_reports(reading.steps)
    if write_server is not None:
        known = [described(run.server) for run in reading.every if run.server is not None]
        write(write_server, known + [with_flags(report.described, overrides) for report in reading.servers])
    if as_json:
        print_json(
            {
                "runs": [run.to_dict() for run in (*reading.every, *reading.forwards)],
                "steps": [report.to_dict() for report in samplings],
                **({"server": [server.to_dict() for server in reading.servers]} if reading.servers else {}),
            }
        )
    else:
        for run in reading.every:
            _show_run(run, quiet)
        for server in reading.servers:
            show(server)
            if server.refused:
                say_why(f"refused: {server.refused}")
            print_findings(server.findings, quiet)
        for timed in reading.forwards:
            _show_forwards(timed, quiet)
        for report in samplings:
            OUT.print(f"[bold]{escape(Path(report.sampling.table).name)}[/bold]")
            OUT.print(f"  {report.sampling.samples} sampled steps of {report.sampling.steps}")
            print_findings(report.findings, quiet)
    if reading.why_nothing is not None:
        say_why(f"roofml: {reading.why_nothing}")
        raise typer.Exit(UNUSABLE)


def _show_forwards(timed: Forwards, quiet: bool) -> None:
    """A file of exact batches: what it holds, what nobody says, and what was found."""
    from roofml.traces.server import flags_for

    OUT.print(f"[bold]{escape(timed.name)}[/bold]")
    OUT.print(f"  {escape(timed.headline)}")
    if timed.server.missing:
        text = f"nobody says {', '.join(timed.server.missing)}; to fit, give {flags_for(timed.server.missing)}"
        OUT.print(f"  [yellow]{escape(text)}[/yellow]")
    print_findings(timed.findings, quiet)


def _show_run(run: AnyRun, quiet: bool) -> None:
    """A run's heading, what is missing, and what was found."""
    state = "  [bold red]saturated[/bold red]" if getattr(run, "saturated", False) else ""
    OUT.print(f"[bold]{escape(run.name)}[/bold]{state}")
    OUT.print(f"  {escape(run.headline)}")
    for line in run.reservations:
        OUT.print(f"  [yellow]{escape(line)}[/yellow]")
    print_findings(run.findings, quiet)
