"""roofml bench: kernel efficiencies, imported from others' measurements or taken on this machine."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, progress, show
from roofml.util.display import Table
from roofml.util.errors import InputError
from roofml.util.outside_text import for_file_name, for_terminal

app = typer.Typer(help="Kernel efficiencies: import measurements, or measure this GPU.", no_args_is_help=True)

Package = Annotated[
    list[Path] | None,
    typer.Option(
        "--package", help="Wheel of aiconfigurator-core or aisimulate, or its folder. Default: installed ones."
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder to write. Default: that of the GPU in bench_data/.")
]


@app.command("import", epilog="Example: roofml bench import --gpu H200")
def import_(
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    engine: Annotated[
        str | None,
        typer.Option(help="Newest version of vLLM whose measurements are taken. Default: the GPU's campaign."),
    ] = None,
    package: Package = None,
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
    """Derive a GPU's tables from the PyPI packages of NVIDIA's measurements, or from measurements of one's own."""
    from roofml.hardware.gpu import load_gpu
    from roofml.microbench.derive import COLUMNS
    from roofml.microbench.importer import import_folder, import_package, write_tables
    from roofml.microbench.packages import packages, tables_of
    from roofml.util.package_data import data_folder

    sheet = load_gpu(gpu)
    if listing:
        held = tables_of(sheet, packages(package or ()), list(COLUMNS))
        versions_of = {kernel: [table.version for table in tables] for kernel, tables in held.items()}
        if as_json:
            print_json({"gpu": sheet.name, "versions": versions_of})
        else:
            rows = [[kernel, ", ".join(versions)] for kernel, versions in versions_of.items()]
            show([Table(f"measurements of {sheet.name}", ["kernel", "vLLM versions"], rows)])
        return
    if folder is not None and engine is not None:
        raise InputError("--from and --engine: expected one of them; a folder holds one engine's measurements")
    for option, text in (("--source", source), ("--licence", licence), ("--date", date)):
        _check_plain(option, text)
    day = date or _today()
    measured, about = (
        import_package(sheet, engine, packages(package or ()))
        if folder is None
        else import_folder(folder, source or folder.resolve().name, licence)
    )
    folder_of_tables = data_folder("bench_data") / for_file_name(sheet.name) if output is None else output
    rows_of = write_tables(measured, sheet, {**about, "date": day}, folder_of_tables)
    if as_json:
        print_json({"gpu": sheet.name, **about, "date": day, "folder": str(folder_of_tables), "rows": rows_of})
    elif not quiet:
        title = f"{sheet.name}: {', '.join(about.values())}"
        show([Table(title, ["table", "rows"], [[name, str(rows)] for name, rows in rows_of.items()])])
        OUT.print(for_terminal(f"written: {folder_of_tables}"), markup=False)


@app.command("drift", epilog="Example: roofml bench drift --gpu H100 --from h100_sxm-vllm-0.14.0")
def drift(
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    package: Package = None,
    folder: Annotated[
        list[Path] | None, typer.Option("--from", help="Folder of another version's measurements, of the same columns.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Day to write down. Default: today.")] = None,
    output: Output = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Derive how a GPU's kernels changed between versions of vLLM: drift.csv, beside the tables that it changes."""
    from roofml.hardware.gpu import load_gpu
    from roofml.microbench.importer import write_drift
    from roofml.microbench.packages import packages
    from roofml.util.package_data import data_folder

    sheet = load_gpu(gpu)
    _check_plain("--date", date)
    folder_of_tables = data_folder("bench_data") / for_file_name(sheet.name) if output is None else output
    day = date or _today()
    rows = write_drift(sheet, packages(package or ()), folder or (), {"date": day}, folder_of_tables)
    if as_json:
        print_json({"gpu": sheet.name, "date": day, "folder": str(folder_of_tables), "rows": rows})
    elif not quiet:
        show([Table(sheet.name, ["table", "rows"], [[name, str(count)] for name, count in rows.items()])])
        OUT.print(for_terminal(f"written: {folder_of_tables}" if rows else "no other version was measured"))


@app.command("measure", epilog="Example: roofml bench measure codellama-34b-instruct-hf --gpu H100 --tp 2 -o kernels")
def measure(
    model: Annotated[str, typer.Argument(help="Name in model_configs/, Hub repository or path of a config.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write: raw/ and the tables.")],
    gpu: Annotated[str | None, typer.Option("--gpu", help="This GPU: a name in hardware/ or a YAML file.")] = None,
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallel size whose shapes are timed.")] = 1,
    device: Annotated[str, typer.Option(help="cuda, or cpu to rehearse at toy sizes.")] = "cuda",
    seconds: Annotated[float, typer.Option(min=1, help="Begin no new kernel after so long.")] = 900.0,
    date: Annotated[str | None, typer.Option(help="Day to write down. Default: today.")] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Time the shapes a model needs on this machine's GPU, and derive its tables. Needs torch."""
    from roofml.hardware.gpu import load_gpu
    from roofml.microbench.campaign import run_campaign
    from roofml.models.load import load_model
    from roofml.util.reading import is_folder
    from roofml.util.writing import check_writable

    if device not in {"cuda", "cpu"}:
        raise InputError(f"--device {device!r}: expected cuda or cpu")
    if device == "cuda" and gpu is None:
        raise InputError("--gpu: expected the name of this machine's GPU, with whose datasheet times are compared")
    _check_plain("--date", date)
    if not seconds < float("inf"):
        raise InputError(f"--seconds {seconds:g}: expected a number of seconds")
    check_writable(output / "gemm.csv" if is_folder(output) else output)
    spec = load_model(model)
    sheet = None if gpu is None else load_gpu(gpu)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("measuring", total=1)
        campaign = run_campaign(
            spec,
            sheet if device == "cuda" else None,
            tp,
            output,
            date=date or _today(),
            seconds=seconds,
            on_kernel=lambda i, n, name: shown.update(task, description=f"measuring {name}", completed=i, total=n),
        )
    if as_json:
        print_json(campaign.to_dict())
    elif not quiet:
        show(campaign)
        if not campaign.complete:
            OUT.print("the time was up before every shape was measured: --seconds gives it more")
        OUT.print(for_terminal(f"written: {output}"), markup=False)


def _check_plain(option: str, text: str | None) -> None:
    """Raise InputError for a text that would not stay on its line of a table's head."""
    if text is not None and not text.isprintable():
        raise InputError(f"{option}: {text[:80]!r}: expected one line without control characters")


def _today() -> str:
    return datetime.date.today().isoformat()
