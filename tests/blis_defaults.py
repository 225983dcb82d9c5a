"""A set of coefficients for BLIS, and what BLIS's own parser would make of a `defaults.yaml` with it."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from roofml.blis.deployment import BlisCoefficients

SET = BlisCoefficients((9000.5, 400, 3), (0.9, 0, 1.3, 1, 12.25, 2, 90, 0, 0, 1.8, 1))


def strict(text: str) -> dict[str, Any]:
    """What BLIS's strict parser would let through, as data."""
    data = YAML(typ="safe", pure=True).load(text)
    assert set(data) <= {
        "version",
        "defaults",
        "workloads",
        "trained_physics_coefficients",
        "lora",
        "kv_offload_devices",
    }
    assert set(data["trained_physics_coefficients"]) == {"alpha_coeffs", "beta_coeffs"}
    assert len(data["trained_physics_coefficients"]["alpha_coeffs"]) == 3
    assert len(data["trained_physics_coefficients"]["beta_coeffs"]) == 11
    for entry in (data.get("defaults") or {}).values():
        assert {"GPU", "tensor_parallelism", "hf_repo"} <= set(entry)
    return data
