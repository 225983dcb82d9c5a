"""roofml doctor: what a trace really says."""

from __future__ import annotations

from roofml.cli import options as o
from roofml.cli.console import OUT, escape, print_json

STYLES = {"error": "bold red", "warning": "yellow", "corrected": "cyan", "info": "dim"}


def doctor(
    runs: o.Runs,
    gpu: o.Gpu = None,
    model: o.Model = None,
    tp: o.Tp = None,
    max_num_seqs: o.MaxSeqs = None,
    max_num_batched_tokens: o.MaxTokens = None,
    block_size: o.BlockSize = None,
    num_gpu_blocks: o.Blocks = None,
    max_model_len: o.MaxLen = None,
    prefix_caching: o.Prefix = None,
    async_scheduling: o.Async = None,
    fresh: o.Fresh = None,
    output_tokens: o.Output = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what traces, or sampled steps, really contain: traps found, what was corrected, what could not be."""
    from roofml.cli.reading import diagnose
    from roofml.cli.steps import print_sampling, sampling_reports
    from roofml.traces import ServerOverrides
    from roofml.traces.doctor import diagnosis_document
    from roofml.traces.steps import is_steps

    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, fresh, output_tokens,
    )  # fmt: skip
    tables = [path for path in runs if is_steps(path)]
    diagnoses = diagnose([path for path in runs if path not in tables], overrides, strict=False)
    samplings = sampling_reports(tables)
    if as_json:
        print_json({"runs": [diagnosis_document(diagnosis) for diagnosis in diagnoses], "steps": samplings})
        return
    for diagnosis in diagnoses:
        run, server = diagnosis.run, diagnosis.run.server
        state = "  [bold red]saturated[/bold red]" if diagnosis.saturated else ""
        OUT.print(f"[bold]{escape(run.name)}[/bold]{state}")
        OUT.print(
            f"  {escape(server.model)}, TP {server.tensor_parallel}, GPU {escape(server.gpu or 'not said')}; "
            f"{len(run)} requests, {int(run.ok.sum())} to measure"
        )
        for finding in diagnosis.findings:
            if quiet and finding.severity == "info":
                continue
            style = STYLES[finding.severity]
            OUT.print(f"  [{style}]{finding.severity:>9}[/{style}]  {escape(finding.summary)}")
            OUT.print(f"             [dim]{escape(finding.advice)}[/dim]")
        OUT.print()
    print_sampling(samplings, STYLES, quiet)
