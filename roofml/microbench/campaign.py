"""A campaign: every kernel a model needs, timed on this machine's GPU, and the tables that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roofml.hardware.gpu import Gpu
from roofml.microbench import measure
from roofml.microbench.importer import import_folder, make_folder, write_tables
from roofml.models.spec import ModelSpec
from roofml.util.display import Shown, Table
from roofml.util.writing import write_file


@dataclass(frozen=True, repr=False)
class Campaign(Shown):
    """What was measured."""

    model: str
    environment: Mapping[str, str]
    """Device, driver and libraries."""
    folder: Path
    times: Mapping[str, int]
    """Kernel -> how many shapes were timed."""
    rows: Mapping[str, int]
    """Table -> its rows; empty for a rehearsal."""
    complete: bool
    """False where the time was up before every shape was measured."""

    def tables(self) -> list[Table]:
        """Kernel by kernel."""
        title = ", ".join(f"{key} {value}" for key, value in self.environment.items())
        return [Table(title, ["kernel", "times"], [[name, str(count)] for name, count in self.times.items()])]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml bench measure --json` prints it."""
        return {
            "model": self.model,
            "environment": dict(self.environment),
            "folder": str(self.folder),
            "raw": dict(self.times),
            "tables": dict(self.rows),
        }


def run_campaign(
    model: ModelSpec,
    gpu: Gpu | None,
    tp: int,
    folder: Path,
    *,
    date: str,
    seconds: float,
    on_kernel: Callable[[int, int, str], None],
) -> Campaign:
    """Time a model's kernels into `folder`/raw, and derive the tables of `gpu` in `folder`.

    Without a `gpu` it is a rehearsal on the CPU at toy sizes, and no table is made. `on_kernel(done, total, name)` is
    called before each kernel. Raises InputError without torch, or a GPU.
    """
    model.check_tensor_parallel(tp)
    device = "cpu" if gpu is None else "cuda"
    sweep = measure.toy() if gpu is None else replace(measure.Sweep(), seconds=seconds)
    clock = measure.Clock(device, sweep)
    environment = measure.environment(clock)
    kernels = {
        "gemm": measure.gemms(clock, model, tp),
        "moe": measure.mixtures(clock, model, tp),
        "context_attention": measure.prefill_attention(clock, model, tp),
        "generation_attention": measure.decode_attention(clock, model, tp),
        "decoder_steps": measure.decoder_steps(clock, model, tp),
        "custom_allreduce": measure.allreduces(clock),
    }
    times: dict[str, int] = {}
    raw = folder / "raw"
    make_folder(raw)
    for done, (kernel, measurements) in enumerate(kernels.items()):
        on_kernel(done, len(kernels), kernel)
        shapes = list(measurements)
        if shapes:
            lines = [",".join(shapes[0]), *(",".join(map(str, shape.values())) for shape in shapes)]
            write_file(raw / f"{kernel}_perf.csv", "\n".join(lines) + "\n")
            times[kernel] = len(shapes)
    rows: dict[str, int] = {}
    if gpu is not None:
        about = {"source": "measured by roofml bench measure", "licence": "yours", "date": date, **environment}
        measured, _ = import_folder(raw, "", "", needed=())
        rows = write_tables(measured, gpu, {**about, "engine": f"torch {environment['torch']}"}, folder)
    return Campaign(model.name, environment, folder, times, rows, not clock.over)
