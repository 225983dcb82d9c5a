"""Parameter counts against `transformers` models built on the meta device, and against published figures.

Published totals: Llama-3_3-Nemotron-Super-49B-v1, 49.9 B (safetensors index of nvidia/Llama-3_3-Nemotron-Super-49B-v1).
Published active parameters: Mixtral 12.9 B (arXiv 2401.04088), Qwen3-30B-A3B 3.3 B (Qwen3 model card), DeepSeek-V3
37 B (arXiv 2412.19437), gpt-oss-120b 5.1 B and gpt-oss-20b 3.6 B (model card, which leaves the input embedding out),
Llama 4 17 B, Nemotron 3 Nano 3.6 B with embeddings, Kimi K2 32 B, GLM-4.5-Air 12 B (their model cards).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from roofml.models.load import load_model
from roofml.util.package_data import data_folder
from tests.models.published_totals import BILLIONS

MODELS = sorted(path.name for path in data_folder("model_configs").iterdir() if path.is_dir())
WITHOUT_CLASS = {"llama-3_3-nemotron-super-49b-v1", "mimo-7b-base"}
"""Their classes live in their repositories, not in transformers."""

VISION = ("visual", "vision", "multi_modal", "audio", "projector")


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", reason="parameter counts need the `oracle` extra (torch and transformers)")
    module = pytest.importorskip("transformers", reason="parameter counts need the `oracle` extra")
    module.utils.logging.set_verbosity_error()
    return module


def language_parameters(transformers: Any, config: dict[str, Any]) -> int:
    """Parameters of the language model in the class that the config names, tied ones counted once."""
    import torch  # pyright: ignore[reportMissingImports]

    architecture = config["architectures"][0]
    if architecture == "KimiK25ForConditionalGeneration":  # its language model is a DeepSeek V3
        architecture, config = "DeepseekV3ForCausalLM", {**config["text_config"], "model_type": "deepseek_v3"}
    facts = {key: value for key, value in config.items() if key not in {"quantization_config", "architectures"}}
    if not hasattr(transformers, architecture):
        pytest.skip(f"transformers {transformers.__version__} has no {architecture}")
    cls = getattr(transformers, architecture)
    with torch.device("meta"):
        model = cls._from_config(cls.config_class.from_dict(facts))
    model.tie_weights()
    named = model.named_parameters()
    return sum(weight.numel() for name, weight in named if not any(word in name for word in VISION))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_CLASS])
def test_parameters_equal_those_of_transformers(transformers: Any, name: str) -> None:
    config = json.loads((data_folder("model_configs") / name / "config.json").read_text())
    assert load_model(name).parameters() == language_parameters(transformers, config)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-3_3-nemotron-super-49b-v1", 49.9), ("mimo-7b-base", 7.6), ("llama-2-7b-hf", 6.7), ("deepseek-v3", 671)],
)
def test_published_totals(name: str, billions: float) -> None:
    assert load_model(name).parameters() / 1e9 == pytest.approx(billions, abs=0.05 if billions < 100 else 0.5)


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_published_totals_of_models_people_benchmark(name: str, billions: float) -> None:
    """To 0.6 %: cards round, and some count a bias or an embedding that others leave out."""
    assert load_model(name).parameters() / 1e9 == pytest.approx(billions, rel=0.006)


@pytest.mark.parametrize(
    ("name", "billions", "embeddings", "rounding"),
    [
        ("mixtral-8x7b-v0.1", 12.9, 2, 0.05),
        ("qwen3-30b-a3b", 3.3, 2, 0.06),  # 3.353 B, cut rather than rounded
        ("llama-4-scout-17b-16e-instruct", 17, 2, 0.5),
        ("llama-4-maverick-17b-128e-instruct", 17, 2, 0.5),
        ("nvidia-nemotron-3-nano-30b-a3b-bf16", 3.6, 2, 0.05),
        ("deepseek-v3", 37, 1, 0.5),
        ("kimi-k2.5", 32, 1, 0.5),
        ("gpt-oss-120b", 5.13, 1, 0.005),
        ("gpt-oss-20b", 3.61, 1, 0.005),
        ("glm-4.5-air", 12, 0, 0.5),
        ("qwen3.8-2.4t-a95b", 95, 2, 0.5),
        ("ernie-4.5-21b-a3b-pt", 3, 1, 0.2),
        ("dbrx-instruct", 36, 2, 0.6),
        ("granite-4.0-h-small", 9, 2, 0.5),
        ("longcat-flash-chat", 27, 1, 0.5),
        ("phi-3.5-moe-instruct", 6.6, 2, 0.1),
        ("deepseek-v2", 21, 2, 0.5),
        ("qwen2-57b-a14b-instruct", 14, 2, 0.3),
    ],
)
def test_published_active_parameters(name: str, billions: float, embeddings: int, rounding: float) -> None:
    """Publishers count both embedding matrices, the output's alone, or none: `embeddings` says how many."""
    model = load_model(name)
    active = model.active_parameters() - (2 - embeddings) * model.embedding_parameters
    assert active / 1e9 == pytest.approx(billions, abs=rounding)
