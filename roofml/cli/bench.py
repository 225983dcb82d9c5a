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

app = typer.Typer(help="Kernel efficiencies: import measurements, or measure this GPU.", no_args_is_help=True)

Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder to write. Default: that of the GPU in bench_data/.")
]


@app.command("import", epilog="Example: roofml bench import --gpu H200")
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
    from roofml.hardware.gpu import load_gpu
    from roofml.microbench.importer import import_folder, import_package, package_data, package_versions, write_tables
    from roofml.util.files import data_folder

    sheet = load_gpu(gpu)
    if listing:
        found = package_versions(sheet, package_data()[0])
        if as_json:
            print_json({"gpu": sheet.name, "versions": found})
        else:
            rows = [[kernel, ", ".join(versions)] for kernel, versions in found.items()]
            show([Table(f"aiconfigurator-core on {sheet.name}", ["kernel", "vLLM versions"], rows)])
        return
    if folder is not None and engine is not None:
        raise InputError("--from and --engine: expected one of them; a folder holds one engine's measurements")
    day = date or _today()
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
        show([Table(title, ["table", "rows"], [[name, str(rows)] for name, rows in rows_of.items()])])
        OUT.print(f"written: {where}", markup=False)


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
    import dataclasses

    from roofml.hardware.gpu import load_gpu
    from roofml.microbench import measure as m
    from roofml.microbench.importer import import_folder, write_tables
    from roofml.models.spec import load_model
    from roofml.util.files import check_writable, write_atomically

    if device not in {"cuda", "cpu"}:
        raise InputError(f"--device {device!r}: expected cuda or cpu")
    if device == "cuda" and gpu is None:
        raise InputError("--gpu: expected the name of this machine's GPU, with whose datasheet times are compared")
    check_writable(output)
    spec = load_model(model)
    sheet = None if gpu is None else load_gpu(gpu)
    spec.check_tensor_parallel(tp)
    clock = m.Clock(device, dataclasses.replace(m.Sweep(), seconds=seconds) if device == "cuda" else m.toy())
    said = m.environment(clock)
    parts = {
        "gemm": m.gemms(clock, spec, tp),
        "moe": m.mixtures(clock, spec, tp),
        "context_attention": m.prefill_attention(clock, spec, tp),
        "generation_attention": m.decode_attention(clock, spec, tp),
        "decoder_steps": m.decoder_steps(clock, spec, tp),
        "custom_allreduce": m.allreduces(clock),
    }
    counts: dict[str, int] = {}
    raw = output / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("measuring", total=len(parts))
        for kernel, rows in parts.items():
            shown.update(task, description=f"measuring {kernel}", advance=1)
            found = list(rows)
            if found:
                lines = [",".join(found[0]), *(",".join(map(str, row.values())) for row in found)]
                write_atomically(raw / f"{kernel}_perf.csv", "\n".join(lines) + "\n")
                counts[kernel] = len(found)
    tables: dict[str, int] = {}
    if device == "cuda" and sheet is not None:
        about = {"source": "measured by roofml bench measure", "licence": "yours", "date": date or _today(), **said}
        measured, _ = import_folder(raw, "", "", needed=())
        tables = write_tables(measured, sheet, {**about, "engine": f"torch {said['torch']}"}, output)
    if as_json:
        print_json({"model": spec.name, "environment": said, "folder": str(output), "raw": counts, "tables": tables})
    elif not quiet:
        title = ", ".join(f"{key} {value}" for key, value in said.items())
        show([Table(title, ["kernel", "times"], [[name, str(count)] for name, count in counts.items()])])
        if clock.over:
            OUT.print("the time was up before every shape was measured: --seconds gives it more")
        OUT.print(f"written: {output}", markup=False)


def _today() -> str:
    return datetime.date.today().isoformat()
