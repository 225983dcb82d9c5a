"""Continued load: a recording that ends before its load did leaves its last requests alone in a replay.

They were not alone: those that came after them kept the batch as large as it was. So the last requests are sent again
behind the recording, at the pace at which they came, for as long as any of its requests may still run; what they are
answered is not looked at.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roofml.traces.run import OPTIONAL, Run

LONGER = 2.0
"""The load goes on for so many times the longest measured E2E: a prediction may be slower than the server was."""


def continued(run: Run) -> Run:
    """The run and what is sent behind it; the run itself where nothing is, or where nobody can know when."""
    if not run.goes_on or run.clients or not run.ok.any():
        return run
    last_us = float(run.arrival_us[-1])
    again = run.arrival_us > last_us - LONGER * float(np.nanmax(run.e2e_us[run.ok]))
    if again.sum() < 2:
        return run
    begin = float(run.arrival_us[again][0])
    gap_us = (last_us - begin) / float(again.sum() - 1)
    behind = run.arrival_us[again] - begin + last_us + gap_us
    columns = ("request_id", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens")
    columns += ("ttft_us", "e2e_us", "ok", *(name for name in OPTIONAL if len(getattr(run, name))))
    arrays = {name: np.concatenate((getattr(run, name), getattr(run, name)[again])) for name in columns}
    return replace(run, arrival_us=np.concatenate((run.arrival_us, behind)), **arrays)
