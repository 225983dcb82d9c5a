"""The two ways roofml refuses: bad input (exit code 2) and a job that failed (exit code 1)."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong. The message is one line: file, field or line, what was expected."""


class NotSupportedError(InputError):
    """A model, quantization or trace uses something roofml does not model; the message names the field."""


class JobFailedError(RuntimeError):
    """The input was good and the job still failed: a full disk, a fit that does not describe its runs. One line."""


def because(error: OSError | ValueError) -> str:
    """Why the system refused a file, in its own words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
