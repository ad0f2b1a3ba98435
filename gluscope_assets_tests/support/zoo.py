"""A zoo: tiny random models of every model type that transformers has a causal language model for.

What belongs here: how each type is built small enough for a test that sweeps them all, and which of them have gated MLPs
according to their source text. What gluscope makes of the models belongs to the tests; nothing of it is imported here.
"""

import copy
import inspect
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES: tuple[str, ...] = (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "t5", "modernbert")

NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower needs timm and pillow, which are not installed; gemma3n_text is its text model",
    "gemma4_assistant": "needs the hidden states, keys and values of another model",
    "gemma4_unified_assistant": "needs the hidden states, keys and values of another model",
}
"""Why a type has no tiny model that runs on token ids alone."""

DECODER_ONLY = ("musicgen", "musicgen_melody", "trocr", "whisper")
"""Types that run on token ids alone only as the decoder inside their causal language model, with the config of that."""

# Every kind of width of an MLP differs from every other and from twice the others, so that a test that mixes them up fails.
_SIZES: tuple[tuple[int, str], ...] = (
    (
        32,
        "hidden_size d_model n_embd embed_dim emb_dim embedding_size embedding_dim input_embedding_size "
        "output_embedding_size word_embed_proj_dim lru_width pronunciation_embed_dim shape_embed_dim "
        "vision_output_dim projector_input_dim projector_output_dim adapter_in_dim adapter_input_size adapter_out_dim "
        "out_hidden_size ple_embed_dim",
    ),
    # Dense MLPs.
    (
        44,
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff dff dim_ff d_inner n_inner ffn_hidden_size "
        "feed_forward_size mlp_dim",
    ),
    # Dense MLPs where `intermediate_size` is the width of the experts.
    (36, "dense_intermediate_size intermediate_size_mlp prefix_dense_intermediate_size"),
    # Experts.
    (20, "moe_intermediate_size expert_ffn_hidden_size"),
    # Shared experts; where they are n_shared_experts * moe_intermediate_size wide, that is 60.
    (
        28,
        "shared_expert_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size "
        "shared_experts_intermediate_size",
    ),
    (
        4,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers num_decoder_layers "
        "num_blocks num_global_layers depth",
    ),
    (
        4,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads index_n_heads linear_num_heads "
        "linear_num_value_heads mamba_n_heads mamba_num_heads",
    ),
    (2, "num_key_value_heads kv_n_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads"),
    (
        8,
        "head_dim swa_head_dim dim_head d_head d_kv kv_channels attention_head_size linear_head_dim linear_key_head_dim "
        "linear_value_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim rotary_dim",
    ),
    (6, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k"),
    (3, "n_shared_experts num_shared_experts moe_num_shared_experts"),
    (2, "zero_expert_num"),
    (1, "n_group topk_group num_expert_group first_k_dense_replace num_dense_layers"),
    (16, "q_lora_rank kv_lora_rank o_lora_rank router_hidden_size mamba_d_head mamba_head_dim"),
    (8, "state_size mamba_d_state ssm_state_size hc_lowrank"),
    (1, "n_groups mamba_n_groups mamba_ngroups"),
    (6, "hidden_size_per_layer_input laurel_rank adapter_rank"),
    (
        64,
        "vocab_size vocab_size_per_layer_input decoder_vocab_size pronunciation_vocab_size shape_vocab_size "
        "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions context_length "
        "sliding_window sliding_window_size local_attention attention_window_size",
    ),
    (0, "pad_token_id"),
    (1, "bos_token_id decoder_start_token_id"),
    (2, "eos_token_id"),
    # Vision and audio towers are only built, never run.
    (28, "image_size"),
    (14, "patch_size"),
    (
        16,
        "output_channels nemo_conv_channels ext_pw_out_channel depthwise_separable_out_channel num_position_embeddings "
        "downsample_hidden_size",
    ),
)
_SMALL: dict[str, int] = {name: size for size, names in _SIZES for name in names.split()}

# Set although the default is None, which stands for a size that is derived from others or for one that must be given.
_EVEN_IF_NONE = frozenset(
    [
        "intermediate_size",
        "n_inner",
        "head_dim",
        "num_key_value_heads",
        "num_experts_per_tok",
        "n_routed_experts",
        "n_shared_experts",
        "prefix_dense_intermediate_size",
    ]
)

_LINEAR_AND_FULL = ["linear_attention", "full_attention"] * 2
_SLIDING_AND_FULL = ["sliding_attention", "full_attention"] * 2
_DENSE_AND_SPARSE = ["dense", "sparse"] * 2
_HYBRIDS = ["hybrid_sliding", "hybrid"] * 2

_DOTS3_NOTE_TEXT: dict[str, Any] = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_GEMMA3N_TEXT: dict[str, Any] = {
    "intermediate_size": [44, 36, 44, 36],
    "layer_types": _SLIDING_AND_FULL,
    "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0],
    "num_kv_shared_layers": 2,
}
_GEMMA4_TEXT: dict[str, Any] = {"layer_types": _SLIDING_AND_FULL, "global_head_dim": 16}
_GEMMA4_WIDE: dict[str, Any] = _GEMMA4_TEXT | {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
_GEMMA4_MIXTURE: dict[str, Any] = _GEMMA4_TEXT | {
    "enable_moe_block": True,
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 20,
}
_LLAMA4_TEXT: dict[str, Any] = {"interleave_moe_layer_step": 2, "no_rope_layer_interval": 2}
_QWEN4_EXP_TEXT: dict[str, Any] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "eos_token_id": 2,
    "ple_layer_ids": [1],
    "ngram_vocab_size_base": 50,
    "heads_per_ngram": 2,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": _LINEAR_AND_FULL},
    "bamba": {"attn_layer_indices": [1, 3]},
    "beam": {"mlp_layer_types": _DENSE_AND_SPARSE},
    # Texts are shorter than a block, for which block-sparse attention falls back to this one with a warning.
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "blt": {
        "encoder_hash_byte_group_vocab": 50,
        "patcher_config": {"num_key_value_heads": 4},
        "encoder_config": {"num_key_value_heads": None, "intermediate_size": 36},
        "decoder_config": {"hidden_size_global": 48, "num_key_value_heads": None, "intermediate_size": 40},
        "global_config": {"hidden_size": 48, "head_dim": 12},
    },
    "cohere2_moe": {"layer_types": _SLIDING_AND_FULL, "mlp_layer_types": _DENSE_AND_SPARSE},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    # The experts of a mixture lie on a square grid.
    "doge": {"is_moe": True, "num_experts": 9},
    "dots3_note": {
        "text_config": _DOTS3_NOTE_TEXT,
        "vision_config": {"per_layer_config": {}},
    },
    "dots3_note_text": _DOTS3_NOTE_TEXT,
    "emu3": {
        "vocabulary_map": {"<image>": 63},
        "vq_config": {
            # As many as there are groups in the norms.
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "codebook_size": 64,
            "attn_resolutions": [1],
            "embed_dim": 4,
        },
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3": {"text_config": {"layer_types": _SLIDING_AND_FULL}},
    "gemma3_text": {"layer_types": _SLIDING_AND_FULL},
    "gemma3n_text": _GEMMA3N_TEXT,
    "gemma4": {"text_config": _GEMMA4_MIXTURE},
    "gemma4_text": _GEMMA4_WIDE,
    "gemma4_unified": {"text_config": _GEMMA4_TEXT},
    "gemma4_unified_text": _GEMMA4_WIDE,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_neox_japanese": {"intermediate_multiple_size": 3},
    "granitemoehybrid": {"layer_types": _LINEAR_AND_FULL},
    "hrm_text": {"num_hidden_layers": 2},
    "inkling2_text": {"layer_types": _HYBRIDS},
    "inkling_text": {"layer_types": _HYBRIDS, "mlp_layer_types": _DENSE_AND_SPARSE},
    "jamba": {"attn_layer_offset": 2},
    "kimi_linear": {"layer_types": _LINEAR_AND_FULL},
    "kolibri1": {"layer_types": _SLIDING_AND_FULL},
    "laguna": {"layer_types": _SLIDING_AND_FULL},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 10},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"]},
    "llama4": {"text_config": _LLAMA4_TEXT},
    "llama4_text": _LLAMA4_TEXT,
    "mamba2": {"num_heads": 8},
    "mellum": {"layer_types": _SLIDING_AND_FULL, "mlp_layer_types": _DENSE_AND_SPARSE},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "mlp_layer_types": _DENSE_AND_SPARSE,
    },
    "ministral": {"layer_types": _SLIDING_AND_FULL},
    # The cross-attention layer, its MLP included, is skipped unless there is an image.
    "mllama": {"text_config": {"cross_attention_layers": [2]}},
    # One codebook, so that ids are [texts, tokens] as elsewhere.
    "musicgen": {"num_codebooks": 1},
    "musicgen_melody": {"num_codebooks": 1},
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_moe": {"mlp_only_layers": [0]},
    "qwen3_next": {"mlp_only_layers": [0]},
    "qwen4_exp": {"text_config": _QWEN4_EXP_TEXT},
    "qwen4_exp_text": _QWEN4_EXP_TEXT,
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "t5": {"feed_forward_proj": "gated-gelu"},
    "xlstm": {"ffn_round_up_to_multiple_of": 10},
    "xmod": {"default_language": "en_XX"},
    # The hybrid layers share their weights.
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    # Other numbers of experts per token are not supported.
    "zaya": {"layer_types": _HYBRIDS, "sliding_window": 64, "num_experts_per_tok": 1},
}
"""Keyword arguments that a type's config needs beyond the rules, those of its inner configs as nested dictionaries."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings, which transformers gives for many a default of its own."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def _small_arguments(config: PreTrainedConfig) -> dict[str, Any]:
    """Small values for the fields of a default config that the table knows; everything else is left to be derived."""
    arguments: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        inner = vars(config).get(name)
        if isinstance(inner, PreTrainedConfig):
            arguments[name] = _small_arguments(inner)
            if inner.model_type:
                arguments[name]["model_type"] = inner.model_type
        elif name in _SMALL and (name in _EVEN_IF_NONE if value is None else not isinstance(value, (list, dict))):
            arguments[name] = _SMALL[name]
    if "kv_lora_rank" in arguments:
        # Latent attention makes keys and values for every head.
        arguments["num_key_value_heads"] = arguments["num_attention_heads"]
    return arguments


def _merged(arguments: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with `overrides` in them, inner configs merged likewise."""
    merged = dict(arguments)
    for name, value in overrides.items():
        # A copy, because some configs change the lists they are given.
        merged[name] = _merged(merged[name], value) if isinstance(merged.get(name), dict) else copy.deepcopy(value)
    return merged


def _causal_class(model_type: str) -> type[PreTrainedModel]:
    return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def tiny_config(model_type: str) -> PreTrainedConfig:
    """A config of few small layers, with one of each kind of layer and MLP that the type has."""
    if model_type in NOT_BUILT:
        raise ValueError(f"{model_type} is not built: {NOT_BUILT[model_type]}")
    config_class = _causal_class(model_type).config_class if model_type in DECODER_ONLY else CONFIG_MAPPING[model_type]
    with _quiet():
        return config_class(**_merged(_small_arguments(config_class()), OVERRIDES.get(model_type, {})))


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Weights so large that no activation is nearly zero, and norms and biases that change what they are applied to."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=0.2)
        elif name.endswith(("weight", "scale", "residual")):
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(std=0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):
            # DeepSeek V4's table of experts by token: distinct ones, as a checkpoint has them.
            buffer.copy_(torch.rand(len(buffer), 6).argsort(dim=1)[:, : buffer.shape[1]])


def tiny_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """The base model of a type, random, in float32, for inference; text and other towers if the type has those."""
    config = tiny_config(model_type)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model_type in DECODER_ONLY:
            model = _causal_class(model_type)._from_config(config).base_model
        else:
            model = AutoModel.from_config(config)
        model = model.float().eval()
        _randomise(model)
    return model


def inputs_of(model: PreTrainedModel, ids: Tensor) -> dict[str, Any]:
    """All keyword arguments to call `model` with on token ids [texts, tokens]."""
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(-1)
    return inputs


_OTHER_TOWER = re.compile(r"vision|visual|image|audio|vqmodel", re.IGNORECASE)
"""In the paths of modules that are no part of the text model."""

_FEED_FORWARD = re.compile(r"(?<!Router)(MLP|Mlp|FeedForward|Experts|MoE|GLU|GatedACT|GatedActDense)$")
"""Names of classes that may compute a gated product. Attention, recurrent mixers, norms and routers gate other things."""

_ACTIVATION = r"(?:self\.(?:act|act_fn|activation|activation_fn)|F\.silu)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_NOT_ROUTED = r"(?!top_k_weights|routing_weights)"
_GATED_PRODUCTS = (
    # act(gate(x)) * up(x)
    re.compile(rf"{_ACTIVATION}\*{_NOT_ROUTED}"),
    # up(x) * act(gate(x))
    re.compile(rf"\*{_ACTIVATION}"),
    # gate = act(gate(x)), then gate * up(x)
    re.compile(rf"\b(\w+)={_ACTIVATION}.*\b\1\*{_NOT_ROUTED}", re.DOTALL),
    # gate * sigmoid(gate * alpha), then the product of it and up
    re.compile(r"\*torch\.sigmoid\(gate"),
    # The activation is a module of both, which is a class of its own with one of the forms above.
    re.compile(r"self\.act_fn\(gate,up\)"),
)


def _source_of(module_class: type[nn.Module]) -> str:
    """What the class computes, without docstrings, comments and spaces, but with line breaks."""
    source = inspect.getsource(module_class.forward)
    if "self._apply_gate(" in source:
        # Only then: transformers gives a default to all classes of experts, also to those without a gate.
        source += inspect.getsource(module_class._apply_gate)
    source = re.sub(r'""".*?"""|#[^\n]*', "", source, flags=re.DOTALL)
    return re.sub(r"[ \t]+", "", source)


def gated_modules(model: nn.Module) -> list[str]:
    """Paths of the feed-forward modules whose source text multiplies an activated projection with another one."""
    return [
        path
        for path, module in model.named_modules()
        if _FEED_FORWARD.search(type(module).__name__)
        and not _OTHER_TOWER.search(f"{path} {type(module).__name__}")
        and any(pattern.search(_source_of(type(module))) for pattern in _GATED_PRODUCTS)
    ]


def main() -> None:
    """Print a line for each type: its name, parameters, seconds to build and run, and whether its MLPs are gated."""
    ids = torch.arange(3, 17).reshape(2, 7)
    counts = {"gated": 0, "not gated": 0, "not built": len(NOT_BUILT)}
    for model_type in MODEL_TYPES:
        if model_type in NOT_BUILT:
            print(f"{model_type:26} not built: {NOT_BUILT[model_type]}")
            continue
        start = time.perf_counter()
        model = tiny_model(model_type)
        with torch.inference_mode(), _quiet():
            output = model(**inputs_of(model, ids))[0]
        seconds = time.perf_counter() - start
        if not output.isfinite().all():
            raise ArithmeticError(f"{model_type} gives values that are not finite.")
        verdict = "gated" if gated_modules(model) else "not gated"
        counts[verdict] += 1
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{model_type:26} {parameters:9,} parameters {seconds:6.2f} s  {verdict}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()
