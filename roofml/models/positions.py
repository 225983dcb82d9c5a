"""Positions: how long a context a model reaches, as vLLM derives it (vllm/config/model.py, v0.15)."""

from __future__ import annotations

from collections.abc import Mapping

from roofml.models.architectures.fields import Fields

STRETCHED_ALREADY = ("su", "longrope", "llama3", "mrope", "default")
"""Kinds of scaling of rotary embeddings whose `max_position_embeddings` is the stretched one."""
MOST_STRETCHED = 1024.0


def longest_context(fields: Fields) -> int:
    """`max_position_embeddings`, or what scaled rotary embeddings stretch it to where that is more.

    YaRN says what it stretches in `original_max_position_embeddings`; other kinds stretch `max_position_embeddings`.
    A scaling without a factor stretches nothing.
    """
    given = fields.size("max_position_embeddings")
    longest = given
    if "gemma3" in str(fields.config.get("model_type")):  # its factor is of some layers alone
        return given
    for field in ("rope_scaling", "rope_parameters"):
        if fields.config.get(field) is None:
            continue
        scaling = fields.inner(field)
        nested = [scaling.inner(key) for key, value in scaling.config.items() if isinstance(value, dict)]
        for one in (scaling, *nested):  # one for each kind of layer
            longest = max(longest, _stretched(one, given))
    return longest


def _stretched(scaling: Fields, given: int) -> int:
    kind = _kind(scaling.config)
    factor = scaling.config.get("factor")
    if factor is None or kind in STRETCHED_ALREADY:
        return given
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= MOST_STRETCHED:
        raise scaling.error("factor", f"a number above 0, up to {MOST_STRETCHED:g}")
    original = scaling.size("original_max_position_embeddings", given) if kind == "yarn" else given
    return int(original * factor)


def _kind(scaling: Mapping[str, object]) -> str:
    """Newer configs call it `rope_type`."""
    values = [scaling.get(name) for name in ("rope_type", "type")]
    return next((value for value in values if isinstance(value, str)), "")
