"""Whatever stands in a config's fields: a model with sane numbers, or one line that says what is wrong."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.models.operations import AttentionOp
from roofml.models.spec import ModelSpec, model_from_config
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

pytestmark = pytest.mark.slow

MODELS = sorted(path.name for path in data_folder("model_configs").iterdir() if path.is_dir())
PLAIN, QUANTIZED = "plain", "quantization_config"
MOST_FIELDS = 100
MISSING = object()
MUTATIONS: tuple[Any, ...] = (
    MISSING, None, "text", "", -1, 0, 10**30, 2**31, 1.5, float("nan"), float("inf"), True, [], {}, [None], ["x"], [-1],
    {"a": 1},
)  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    return json.loads((data_folder("model_configs") / name / "config.json").read_text())


def paths_in(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field, nested ones included; of lists and of mappings with an entry a layer the first two entries."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())[: 2 if len(value) > MOST_FIELDS else None]
    elif isinstance(value, list):
        items = list(enumerate(value[:2]))
    return [path for key, child in items for path in ((*prefix, key), *paths_in(child, (*prefix, key)))]


def mutated(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if value is MISSING:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return changed


def assert_sane(model: ModelSpec) -> None:
    """Every count is a positive finite integer, and the model has work, weights and a name for each assumption."""
    numbers = [model.parameters(), model.active_parameters(), model.weight_bytes(1)]
    for gemm in model.gemms(1):
        numbers += [gemm.n, gemm.k, gemm.count, gemm.weight_bytes, gemm.flops_per_row]
        if gemm.experts:
            numbers.append(gemm.experts_per_token)
    for op in model.mixers(1):
        numbers += [op.count, op.heads]
        if isinstance(op, AttentionOp):
            numbers += [op.kv_bytes, op.prefill_flops_per_pair, op.decode_flops_per_pair, op.keys(1000)]
        else:
            numbers += [op.flops_per_token, op.state_bytes]
    assert all(isinstance(number, int) and math.isfinite(number) and number > 0 for number in numbers)


def assert_sane_or_refused(config: dict[str, Any], name: str) -> None:
    refusal: str | None = None
    try:
        model = model_from_config(config, name)
    except InputError as error:
        refusal = str(error)
    else:
        assert_sane(model)
    if refusal is not None:
        assert refusal.startswith((f"{name}: ", "quantization_config: "))
        assert "\n" not in refusal
        assert len(refusal) < 3000


def fields_in(config: dict[str, Any], fields: str) -> list[tuple[Any, ...]]:
    """The paths inside the quantization, or all others."""
    return [path for path in paths_in(config) if (path[0] == QUANTIZED) == (fields == QUANTIZED)]


def one_of_each_kind() -> list[tuple[str, str]]:
    """(model, QUANTIZED or PLAIN): the fields of each architecture once, and of each way to write quantization once."""
    kinds: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in MODELS:
        config = config_of(name)
        kinds.setdefault((config["architectures"][0],), (name, PLAIN))
        quantization = config.get(QUANTIZED)
        if quantization:
            writer = quantization.get("producer", {}).get("name", "")
            kinds.setdefault((quantization.get("quant_method", ""), writer), (name, QUANTIZED))
    return list(kinds.values())


@pytest.mark.parametrize(("name", "fields"), one_of_each_kind())
def test_every_field_mutated_in_turn_gives_a_sane_model_or_one_line(name: str, fields: str) -> None:
    """Two mutations of a field, others of the next one."""
    config = config_of(name)
    for i, path in enumerate(fields_in(config, fields)):
        for j in range(2):
            assert_sane_or_refused(mutated(config, path, MUTATIONS[(2 * i + j) % len(MUTATIONS)]), name)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "fields"), one_of_each_kind())
def test_every_mutation_of_every_field_gives_a_sane_model_or_one_line(name: str, fields: str) -> None:
    config = config_of(name)
    for path in fields_in(config, fields):
        for value in MUTATIONS:
            assert_sane_or_refused(mutated(config, path, value), name)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_two_fields_swapped_between_models_give_a_sane_model_or_one_line(data: st.DataObject) -> None:
    """Fields of another model, in any number: combinations that no table lists."""
    config = config_of(data.draw(st.sampled_from(MODELS)))
    other = config_of(data.draw(st.sampled_from(MODELS)))
    for key in data.draw(st.lists(st.sampled_from(sorted(other)), max_size=6)):
        config[key] = other[key]
    assert_sane_or_refused(config, "mixed")
