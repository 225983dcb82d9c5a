"""roofml export: what other simulators load. A new target is one file and one row of `COMMANDS`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from roofml.cli import export_blis, export_go, export_keda, export_one_file, export_others, export_trace

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "blis": (export_blis.blis, "roofml export blis coefficients.yaml --into blis-codellama"),
    "trace": (export_trace.trace, "roofml export trace runs/codegen --gpu H100 -o blis-codellama"),
    "go": (export_go.go, "roofml export go coefficients.yaml -o roofml-go"),
    "c": (export_one_file.c, "roofml export c coefficients.yaml -o roofml.h"),
    "rust": (export_one_file.rust, "roofml export rust coefficients.yaml -o roofml.rs"),
    "keda": (
        export_keda.keda,
        "roofml export keda coefficients.yaml --load poisson:rate=1,input=1024,output=256 --slo 'p95 ttft < 500ms'",
    ),
    **export_others.COMMANDS,
}
"""Name -> command, and an example of it for its help."""

app = typer.Typer(no_args_is_help=True, help="Write what other simulators load.")


@app.callback()
def export() -> None:
    """Write what other simulators load."""


for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example: {_example}")(_command)
