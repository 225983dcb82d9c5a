"""Loading a model by any of its names, in the precision it is served in."""

from __future__ import annotations

from dataclasses import replace

from roofml.models.aliases import alias_of
from roofml.models.precision import with_precision
from roofml.models.spec import ModelSpec, has_config, read_model


def load_model(model: str, precision: str | None = None) -> ModelSpec:
    """The ModelSpec of `model`: a name in `model_configs/`, a Hub repository, or a path.

    Re-uploads and quantized copies of a known config resolve by `model_configs/aliases.yaml`; a config of its own
    comes first. `precision` is the format of the weights where it is not the config's (`precision.FORMATS`).
    Raises InputError when there is no such config or it is not a model config, and for an unknown precision.
    """
    alias = None if has_config(model) else alias_of(model)
    if alias is None or not has_config(alias.config):
        spec = read_model(model)
    else:
        spec = replace(read_model(alias.config), name=model.rsplit("/", 1)[-1].lower())
        if alias.precision:
            spec = with_precision(spec, alias.precision, alias.kv_dtype)
    return spec if precision is None else with_precision(spec, precision)
