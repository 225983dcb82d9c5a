"""roofml: how long does a vLLM engine step take for this batch, model and GPU?

Components of a step's time come from a Hugging Face config, a GPU datasheet and measured kernel efficiencies;
corrections, overheads and a blend of max and sum are fitted to serving traces; a compiled replay of vLLM's scheduler
turns step times into TTFT, TPOT and E2E.

    run = read_run(folder) -> examine(run).run           the trace, corrected
    tables = tables_for(model, gpu, tp)                   physics
    fit(runs, tables) -> replay(run, tables, *split(fit.values))
"""

__version__ = "0.1.0"
