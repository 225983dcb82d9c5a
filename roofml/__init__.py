"""roofml: how long does a vLLM engine step take for this batch, model and GPU?

Physics computes it from a Hugging Face config, a GPU datasheet and measured kernel efficiencies. A fit of serving
traces decides what physics leaves open. A compiled replay of vLLM's scheduler turns step times into TTFT, TPOT and E2E.
With the folders of two runs in `paths`:

>>> import roofml as rf
>>> runs = [rf.read_run(path, gpu="H100") for path in paths]
>>> batch = rf.Batch(prefill=[(16, 560)], decode=[(700, 64)])  # 16 tokens of a prompt, beside 64 decodes

>>> prior = rf.physics("codellama-34b-instruct-hf", gpu="H100", tp=2)  # no trace: with an interval
>>> print(prior.step_time(batch))
codellama-34b-instruct-hf on H100, TP 2
...
 step                             16.5 ms
 90 % interval        15.7 ms     17.5 ms
...

>>> cal = rf.fit(runs, until=0.6)  # the first 60 % of each run
>>> print(cal.converged, "weights" in cal.not_identified)
True False
>>> print(cal.step_time(batch).components["weights"])
ComponentTime(physics_us=11925.1..., corrected_us=...)
>>> served = cal.replay(runs[0])  # vLLM's scheduler at these step times
>>> print(len(served.ttft_us) == len(served.e2e_us) == len(runs[0]))
True
>>> print(rf.evaluate(cal, runs, after=0.6))  # judged on the rest
 run ...
 mean |error| ...
>>> load = "poisson:rate=4,input=512,output=64"  # requests that nobody has sent
>>> print(rf.simulate(cal, load, requests=300).metrics["ttft_p95"].interval_90)
(...)
>>> print(rf.plan(cal, load, ["p95 ttft < 500ms"]).best.capacity.binding)  # the most that one server holds, and why
p95 ttft < 500ms
>>> cal.save("codellama.yaml")
>>> same = rf.load("codellama.yaml")
>>> print(abs(same.step_time(batch).total_us / cal.step_time(batch).total_us - 1) < 1e-5)
True
"""

from __future__ import annotations

from importlib import import_module

from roofml.util.version import __version__ as __version__

TYPE_CHECKING = False  # as in `typing`, whose import would take most of the time until the command can be interrupted
if TYPE_CHECKING:
    from roofml.calibration.calibrate import fit as fit
    from roofml.calibration.calibrate import load as load
    from roofml.calibration.calibrate import physics as physics
    from roofml.calibration.calibration import Calibration as Calibration
    from roofml.hardware.gpu import load_gpu as load_gpu
    from roofml.latency.batch import Batch as Batch
    from roofml.models.load import load_model as load_model
    from roofml.planning.asked import plan as plan
    from roofml.planning.asked import simulate as simulate
    from roofml.traces.read import read_run as read_run
    from roofml.traces.run import Run as Run
    from roofml.traces.selection import Selection as Selection
    from roofml.util.errors import InputError as InputError
    from roofml.validation.evaluation import evaluate as evaluate

_HOMES: dict[str, str] = {
    "read_run": "roofml.traces.read",
    "Run": "roofml.traces.run",
    "Batch": "roofml.latency.batch",
    "load_model": "roofml.models.load",
    "load_gpu": "roofml.hardware.gpu",
    "physics": "roofml.calibration.calibrate",
    "fit": "roofml.calibration.calibrate",
    "Calibration": "roofml.calibration.calibration",
    "load": "roofml.calibration.calibrate",
    "evaluate": "roofml.validation.evaluation",
    "simulate": "roofml.planning.asked",
    "plan": "roofml.planning.asked",
    "Selection": "roofml.traces.selection",
    "InputError": "roofml.util.errors",
}
"""Public name -> its module, imported when the name is first used: `import roofml` itself needs no numpy."""

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'roofml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
