"""When releases of vLLM came out: many results say the day they were measured, and not what served.

Dates of the first file of each release on PyPI (https://pypi.org/project/vllm/#history); patch releases are left out
but for those that a day falls between and that served for weeks.
"""

from __future__ import annotations

import datetime
import re

RELEASED = {
    "0.1.0": "2023-06-20",
    "0.2.0": "2023-09-28",
    "0.3.0": "2024-01-31",
    "0.4.0": "2024-03-31",
    "0.5.0": "2024-06-11",
    "0.6.0": "2024-09-05",
    "0.6.4": "2024-11-15",
    "0.7.0": "2025-01-27",
    "0.8.0": "2025-03-18",
    "0.8.5": "2025-04-28",
    "0.9.0": "2025-05-28",
    "0.10.0": "2025-07-25",
    "0.10.2": "2025-09-13",
    "0.11.0": "2025-10-04",
    "0.11.1": "2025-11-19",
    "0.12.0": "2025-12-03",
    "0.13.0": "2025-12-19",
    "0.14.0": "2026-01-20",
    "0.15.0": "2026-01-29",
    "0.15.1": "2026-02-05",
    "0.16.0": "2026-02-26",
    "0.17.0": "2026-03-07",
    "0.18.0": "2026-03-20",
    "0.19.0": "2026-04-03",
    "0.20.0": "2026-04-27",
    "0.21.0": "2026-05-15",
    "0.22.0": "2026-05-29",
    "0.23.0": "2026-06-15",
    "0.24.0": "2026-06-30",
    "0.25.0": "2026-07-11",
    "0.26.0": "2026-07-25",
    "0.27.0": "2026-08-10",
    "0.28.0": "2026-08-26",
    "0.29.0": "2026-09-09",
    "0.30.0": "2026-09-22",
    "0.31.0": "2026-10-05",
    "0.32.0": "2026-10-18",
    "0.33.0": "2026-11-02",
}
"""Release -> the day it came out, oldest first."""

_DATE = re.compile(r"(?<!\d)(20\d\d)(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?)?(?!\d)", re.ASCII)
_VERSION = re.compile(r"(?<![\d.])v?(0\.\d{1,2}(?:\.\d{1,2})?)(?![\d])", re.ASCII)


def release_on(day: datetime.date) -> str | None:
    """The newest release of vLLM on a day; None before the first."""
    known = [version for version, date in RELEASED.items() if datetime.date.fromisoformat(date) <= day]
    return known[-1] if known else None


def version_in(text: str) -> str | None:
    """The version of vLLM that a remark tells: a number such as 0.15.1, or the newest release of the day it names.

    A month stands for its first day, a year for its middle. None where neither is in it.
    """
    version = _VERSION.search(text)
    if version:
        return version[1]
    date = _DATE.search(text)
    if not date:
        return None
    month, day = (int(date[2]), int(date[3] or 1)) if date[2] else (7, 1)
    try:
        return release_on(datetime.date(int(date[1]), month, day))
    except ValueError:  # a 31st of a short month
        return release_on(datetime.date(int(date[1]), month, 28))
