"""roofml doctor: what a trace really says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from roofml.cli import options as o
from roofml.cli.console import OUT, print_findings, print_json, say_why, show, working
from roofml.traces.server import ServerOverrides


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
    """Say what traces, or sampled steps, really contain: traps found, what was corrected, what could not be."""
    from roofml.traces.read import read_runs
    from roofml.traces.server_files import is_server_file, server_reports
    from roofml.traces.server_files.server_file import check_target, described, with_flags
    from roofml.traces.server_files.server_file import write_server as write
    from roofml.traces.steps import is_steps
    from roofml.traces.steps.sampling import sampling_reports

    if write_server is not None:
        check_target(write_server)
    with working(quiet or as_json, "reading"):
        tables = [path for path in runs if is_steps(path)]
        alone = [path for path in runs if path not in tables and is_server_file(path)]
        read = read_runs([path for path in runs if path not in (*tables, *alone)], overrides, strict=False)
        servers = server_reports(alone)
        samplings = sampling_reports(tables)
    if write_server is not None:
        known = [described(run.server) for run in read]
        write(write_server, known + [with_flags(report.described, overrides) for report in servers])
    if as_json:
        of_servers = {"server": [report.to_dict() for report in servers]} if servers else {}
        steps = [report.to_dict() for report in samplings]
        print_json({"runs": [run.to_dict() for run in read], **of_servers, "steps": steps})
        return
    for run in read:
        server = run.server
        state = "  [bold red]saturated[/bold red]" if run.saturated else ""
        OUT.print(f"[bold]{escape(run.name)}[/bold]{state}")
        OUT.print(
            f"  {escape(server.model)}, TP {server.tensor_parallel}, GPU {escape(server.gpu or 'not said')}; "
            f"{len(run)} requests, {int(run.ok.sum())} to measure"
        )
        print_findings(run.findings, quiet)
    for report in samplings:
        OUT.print(f"[bold]{escape(Path(report.sampling.table).name)}[/bold]")
        OUT.print(f"  {report.sampling.samples} sampled steps of {report.sampling.steps}")
        print_findings(report.findings, quiet)
    for server in servers:
        show(server)
        if server.refused:
            say_why(f"refused: {server.refused}")
        print_findings(server.findings, quiet)
