"""roofml doctor: what a trace really says."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from roofml.cli import options as o
from roofml.cli.console import OUT, print_findings, print_json, working
from roofml.traces.server import ServerOverrides


@o.server_options
def doctor(
    runs: o.Runs,
    overrides: ServerOverrides,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what traces, or sampled steps, really contain: traps found, what was corrected, what could not be."""
    from roofml.traces.read import read_runs
    from roofml.traces.steps import is_steps
    from roofml.traces.steps.sampling import sampling_reports

    with working(quiet or as_json, "reading"):
        tables = [path for path in runs if is_steps(path)]
        read = read_runs([path for path in runs if path not in tables], overrides, strict=False)
        samplings = sampling_reports(tables)
    if as_json:
        print_json({"runs": [run.to_dict() for run in read], "steps": [report.to_dict() for report in samplings]})
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
