"""Architectures: which function reads the config of which model class. A new one is one function and one table row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from roofml.models.architectures import early, recent
from roofml.models.architectures.common import Stack
from roofml.models.architectures.dbrx import dbrx, phi_moe
from roofml.models.architectures.dense import cohere, gemma, llama, llama_full, nemotron, olmo2, starcoder2
from roofml.models.architectures.fields import Fields
from roofml.models.architectures.gemma4 import gemma4
from roofml.models.architectures.hybrid import decilm, nemotron_h, qwen_next
from roofml.models.architectures.latent import deepseek, deepseek_v4, deepseek_v41, glm5_next, kimi_linear
from roofml.models.architectures.mixture import glm4, gpt_oss, llama4, mimo_v2, qwen, step3, uniform


@dataclass(frozen=True)
class Architecture:
    """How to read one model class."""

    read: Callable[[Fields], Stack]
    tied: bool = False
    """The class's default of `tie_word_embeddings`."""
    renames: tuple[tuple[str, str], ...] = ()
    """(start of a module's name in roofml, its start in the class's checkpoints) for each that differs."""
    names: tuple[tuple[str, str], ...] = ()
    """(today's name of a field, the class's own) for each that differs."""

    def renamed(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config with each field that the class calls otherwise under today's name too."""
        return {**{today: config[own] for today, own in self.names if own in config}, **config}


MIXTRAL_NAMES = (("mlp.experts", "block_sparse_moe.experts"), ("mlp.gate", "block_sparse_moe.gate"))
LLAMA4_NAMES = (("mlp.shared_experts", "feed_forward.shared_expert"), ("mlp", "feed_forward"))
NEMOTRON_NAMES = (("self_attn", "mixer"), ("mamba", "mixer"), ("mlp", "mixer"))
GEMMA4_NAMES = (("mlp.experts", "experts"), ("mlp.gate", "router"))
QWEN_SHARED = (("mlp.shared_experts", "mlp.shared_expert"),)
QWEN3_NEXT_NAMES = (
    *QWEN_SHARED,
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_qkvz"),
    ("linear_attn.in_proj_z", "linear_attn.in_proj_qkvz"),
    ("linear_attn.in_proj_a", "linear_attn.in_proj_ba"),
    ("linear_attn.in_proj_b", "linear_attn.in_proj_ba"),
)
V4_NAMES = (("self_attn", "attn"), ("mlp", "ffn"))

QWEN2 = Architecture(partial(llama_full, qkv_bias=True))
QWEN3 = Architecture(partial(llama_full, qk_norm=True))
QWEN3_MOE = Architecture(qwen)
DEEPSEEK = Architecture(deepseek)
DEEPSEEK_SPARSE = Architecture(partial(deepseek, sparse=True))
GEMMA3 = Architecture(partial(gemma, norms=4, pattern=6, qk_norm=True), tied=True)
GEMMA4 = Architecture(gemma4, tied=True, renames=GEMMA4_NAMES)
LLAMA4 = Architecture(llama4, renames=LLAMA4_NAMES)
QWEN3_5 = Architecture(partial(qwen_next, sparse=False))
QWEN3_5_MOE = Architecture(qwen_next, renames=QWEN_SHARED)
MISTRAL = Architecture(partial(llama, window=4096))
STEP3 = Architecture(step3, renames=(("mlp.shared_experts", "share_expert"), ("mlp.experts", "moe")))

ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(llama),
    "MistralForCausalLM": MISTRAL,
    "Mistral3ForConditionalGeneration": MISTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "MiMoForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3VLForConditionalGeneration": QWEN3,
    "Phi3ForCausalLM": Architecture(partial(llama, qkv_bias=False)),
    "GraniteForCausalLM": Architecture(llama),
    "SmolLM3ForCausalLM": Architecture(llama_full, tied=True),
    "SeedOssForCausalLM": Architecture(partial(llama, bias_default=True, output_bias=False)),
    "Glm4ForCausalLM": Architecture(partial(llama, bias_default=True, output_bias=False, norms=4)),
    "Olmo2ForCausalLM": Architecture(olmo2),
    "CohereForCausalLM": Architecture(cohere, tied=True),
    "Starcoder2ForCausalLM": Architecture(starcoder2, tied=True),
    "NemotronForCausalLM": Architecture(nemotron),
    "GemmaForCausalLM": Architecture(gemma, tied=True),
    "Gemma2ForCausalLM": Architecture(partial(gemma, norms=4, pattern=2), tied=True),
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "Gemma4ForCausalLM": GEMMA4,
    "Gemma4ForConditionalGeneration": GEMMA4,
    "MixtralForCausalLM": Architecture(uniform, renames=MIXTRAL_NAMES),
    "OlmoeForCausalLM": Architecture(partial(uniform, experts="num_experts", wide_qk_norm=True)),
    "MiniMaxM2ForCausalLM": Architecture(partial(uniform, wide_qk_norm=True), renames=MIXTRAL_NAMES),
    "Qwen2MoeForCausalLM": Architecture(partial(qwen, shared=True, qkv_bias=True, qk_norm=False), renames=QWEN_SHARED),
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "Qwen3VLMoeForConditionalGeneration": QWEN3_MOE,
    "Glm4MoeForCausalLM": Architecture(glm4),
    "GptOssForCausalLM": Architecture(gpt_oss, renames=(("mlp.gate", "mlp.router"),)),
    "Llama4ForCausalLM": LLAMA4,
    "Llama4ForConditionalGeneration": LLAMA4,
    "MiMoV2FlashForCausalLM": Architecture(mimo_v2),
    "Step3p5ForCausalLM": STEP3,
    "Step3p7FlashForCausalLM": STEP3,
    "DeepseekV2ForCausalLM": DEEPSEEK,
    "DeepseekV3ForCausalLM": DEEPSEEK,
    "KimiK25ForConditionalGeneration": DEEPSEEK,
    "Glm4MoeLiteForCausalLM": DEEPSEEK,
    "DeepseekV32ForCausalLM": DEEPSEEK_SPARSE,
    "GlmMoeDsaForCausalLM": DEEPSEEK_SPARSE,
    "DeepseekV4ForCausalLM": Architecture(deepseek_v4, renames=V4_NAMES),
    "KimiLinearForCausalLM": Architecture(kimi_linear),
    "Qwen3NextForCausalLM": Architecture(qwen_next, renames=QWEN3_NEXT_NAMES),
    "Qwen3_5ForConditionalGeneration": QWEN3_5,
    "Qwen3_5MoeForConditionalGeneration": QWEN3_5_MOE,
    "NemotronHForCausalLM": Architecture(nemotron_h, renames=NEMOTRON_NAMES),
    "DeciLMForCausalLM": Architecture(decilm),
    "Qwen3_5ForCausalLM": QWEN3_5,
    "Qwen3_5MoeForCausalLM": QWEN3_5_MOE,
    "KimiK3ForConditionalGeneration": Architecture(kimi_linear, renames=MIXTRAL_NAMES),
    "Glm5NextForConditionalGeneration": Architecture(glm5_next),
    "DeepseekV41ForCausalLM": Architecture(deepseek_v41, renames=V4_NAMES),
    "MuseGlimmerForConditionalGeneration": Architecture(recent.muse),
    "MistralLarge3ForCausalLM": DEEPSEEK,
    "MiMoV2ForCausalLM": Architecture(mimo_v2),
    "Olmo3ForCausalLM": Architecture(recent.olmo3),
    "Exaone4ForCausalLM": Architecture(recent.exaone4),
    "Cohere2ForCausalLM": Architecture(recent.cohere2, tied=True),
    "Ernie4_5ForCausalLM": Architecture(partial(llama, qkv_bias=False), tied=True),
    "Ernie4_5_MoeForCausalLM": Architecture(recent.ernie_moe, tied=True),
    "GraniteMoeHybridForCausalLM": Architecture(recent.granite_hybrid, tied=True),
    "LongcatFlashForCausalLM": Architecture(recent.longcat_flash, names=recent.LONGCAT_NAMES),
    "GlmForCausalLM": Architecture(partial(llama, bias_default=True, output_bias=False)),
    "FalconForCausalLM": Architecture(early.falcon, tied=True, names=early.FALCON_NAMES),
    "OPTForCausalLM": Architecture(early.opt, tied=True, names=early.OPT_NAMES),
    "GPTJForCausalLM": Architecture(early.gpt_j, names=early.GPT2_NAMES),
    "GPTNeoXForCausalLM": Architecture(early.gpt_neox),
    "GPTBigCodeForCausalLM": Architecture(early.gpt_bigcode, tied=True, names=early.GPT2_NAMES),
    "MPTForCausalLM": Architecture(early.mpt, tied=True, names=early.MPT_NAMES),
    "BloomForCausalLM": Architecture(early.bloom, tied=True, names=early.BLOOM_NAMES),
    "PhiForCausalLM": Architecture(early.phi),
    "PhiMoEForCausalLM": Architecture(phi_moe, renames=MIXTRAL_NAMES),
    "DbrxForCausalLM": Architecture(dbrx, names=early.MPT_NAMES),
    "InternLM2ForCausalLM": Architecture(early.internlm2),
    "BaichuanForCausalLM": Architecture(early.baichuan, names=(("max_position_embeddings", "model_max_length"),)),
    "BaiChuanForCausalLM": Architecture(early.baichuan, names=(("max_position_embeddings", "model_max_length"),)),
    "ChatGLMModel": Architecture(early.chatglm, names=early.CHATGLM_NAMES),
    "ChatGLMForConditionalGeneration": Architecture(early.chatglm, names=early.CHATGLM_NAMES),
}
