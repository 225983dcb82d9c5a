"""roofml bench: kernel efficiencies, imported from others' measurements or taken on this machine."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, table
from roofml.errors import InputError

app = typer.Typer(help="Kernel efficiencies: import measurements, or measure this GPU.", no_args_is_help=True)

Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder to write. Default: that of the GPU in bench_data/.")
]


@app.command("import")
def import_(
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    engine: Annotated[
        str | None, typer.Option(help="Version of vLLM that was measured. Default: the newest of each kernel.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", help="Folder of one's own measurements: <kernel>_perf.parquet or .csv.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="With --from: where the measurements come from.")] = None,
    licence: Annotated[str, typer.Option(help="With --from: under which licence.")] = "not said",
    date: Annotated[str | None, typer.Option(help="Day of the import to write down. Default: today.")] = None,
    output: Output = None,
    listing: Annotated[bool, typer.Option("--list", help="Only say what the package holds for the GPU.")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Derive a GPU's tables from the PyPI package aiconfigurator-core, or from measurements of one's own."""
    from roofml.bench.importer import import_folder, import_package, package_data, package_versions, write_tables
    from roofml.files import data_folder
    from roofml.gpu import load_gpu

    sheet = load_gpu(gpu)
    if listing:
        found = package_versions(sheet, package_data()[0])
        if as_json:
            print_json({"gpu": sheet.name, "versions": found})
        else:
            rows = [[kernel, ", ".join(versions)] for kernel, versions in found.items()]
            OUT.print(table(f"aiconfigurator-core on {sheet.name}", ["kernel", "vLLM versions"], rows))
        return
    if folder is not None and engine is not None:
        raise InputError("--from and --engine: expected one of them; a folder holds one engine's measurements")
    day = date or datetime.date.today().isoformat()
    measured, about = (
        import_package(sheet, engine)
        if folder is None
        else import_folder(folder, source or folder.resolve().name, licence)
    )
    where = data_folder("bench_data") / sheet.name.lower() if output is None else output
    rows_of = write_tables(measured, sheet, {**about, "date": day}, where)
    if as_json:
        print_json({"gpu": sheet.name, **about, "date": day, "folder": str(where), "rows": rows_of})
    elif not quiet:
        title = f"{sheet.name}: {', '.join(about.values())}"
        OUT.print(table(title, ["table", "rows"], [[name, str(rows)] for name, rows in rows_of.items()]))
        OUT.print(f"written: {where}", markup=False)
