"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[list[Path], typer.Argument(help="Run folders, or trace files.", metavar="RUN...")]
OneRun = Annotated[Path, typer.Argument(help="A run folder, or a trace file.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress and no chatter; results are still printed or written.")
]
Coeffs = Annotated[Path | None, typer.Option("--coeffs", help="Coefficients file (YAML) of `roofml fit`.")]

Gpu = Annotated[str | None, typer.Option("--gpu", help="GPU that served: a name in hardware/ or a YAML file.")]
Model = Annotated[str | None, typer.Option("--model", help="Model that was served: name, Hub repository or path.")]
Tp = Annotated[int | None, typer.Option("--tp", help="Tensor parallel size (GPUs).")]
MaxSeqs = Annotated[int | None, typer.Option("--max-num-seqs", help="Most requests in a step.")]
MaxTokens = Annotated[int | None, typer.Option("--max-num-batched-tokens", help="Most new tokens in a step.")]
BlockSize = Annotated[int | None, typer.Option("--block-size", help="Tokens in a KV block.")]
Blocks = Annotated[int | None, typer.Option("--num-gpu-blocks", help="KV blocks, as vLLM reported at start.")]
MaxLen = Annotated[int | None, typer.Option("--max-model-len", help="Most tokens of a request.")]
Prefix = Annotated[bool | None, typer.Option("--prefix-caching/--no-prefix-caching", help="Was it on?")]
Async = Annotated[bool | None, typer.Option("--async-scheduling/--no-async-scheduling", help="Was it on?")]
Fresh = Annotated[bool | None, typer.Option("--fresh/--warm", help="Had it just started, or served before?")]
Output = Annotated[int | None, typer.Option("--output-tokens", help="Tokens every request really made.")]
