"""The entries of a model's config.json, as the engine reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.planner.errors import PlanError

Config = Mapping[str, Any]

# Where a model of several senses keeps the config of its language model, the nearest first.
# Source: transformers 5, `PreTrainedConfig.get_text_config`; vLLM 0.32, `get_hf_text_config`.
INNER = ("text_config", "llm_config", "language_config", "thinker_config")

# What transformers fills in where a config.json of this kind says nothing; publishers leave such
# entries out. Source: transformers 5, the configuration class of each.
GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
LLAMA4 = {
    "vocab_size": 202048,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "intermediate_size_mlp": 16384,
}
SUPPLIED: Mapping[str, Config] = {
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA3,
    "llama4": LLAMA4,
    "llama4_text": LLAMA4,
    "glm4_moe": {"head_dim": 128},
    "seed_oss": {"head_dim": 128},
}


def text_config(config: Config) -> Config:
    """Return the config of a model's language model, with what transformers fills in.

    Args:
        config: a config.json, or those of its entries that are read here.
    """
    inner: Config = config
    for _ in INNER:
        found = next((inner[key] for key in INNER if isinstance(inner.get(key), Mapping)), None)
        if found is None:
            break
        # A wrapper's own kind, quantization and type stand beside it.
        around = {
            key: inner[key]
            for key in ("model_type", "quantization_config", "torch_dtype", "dtype")
            if key in inner
        }
        inner = {**around, **found}
    said = {key: value for key, value in inner.items() if value is not None}
    return {**SUPPLIED.get(str(inner.get("model_type")), {}), **said}


# Scalings of positions that max_position_embeddings counts in already.
# Source: vLLM 0.32, `_get_and_verify_max_len`.
SCALED = frozenset(
    ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
)


def context(config: Config, name: str) -> int:
    """Return the tokens that a model can take.

    Some scalings of positions lengthen it; YaRN does not: the engine refuses more than the number.

    Source: vLLM 0.32, `derive_max_model_len_and_key` and `_get_and_verify_max_len`.
    """
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
            "model_max_length", "max_sequence_length", "max_seq_length")  # fmt: skip
    positions = number(config, name, *keys)
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if "gemma3" in str(config.get("model_type")) or not isinstance(given, Mapping):
        return positions
    nested = [each for each in given.values() if isinstance(each, Mapping)]
    factors = [
        float(scaling.get("factor") or 1)
        for scaling in nested or [given]
        if scaling.get("rope_type", scaling.get("type", "default")) not in SCALED
    ]
    return int(positions * (factors[-1] if factors else 1))


def layer_count(config: Config, name: str) -> int:
    """Return the number of layers."""
    return number(config, name, "num_hidden_layers", "n_layer")


def heads(config: Config, name: str) -> int:
    """Return the number of attention heads."""
    return number(config, name, "num_attention_heads", "n_head")


def head_dim(config: Config, name: str) -> int:
    """Return the width of a head: as given, else the hidden size shared out."""
    return optional(config, name, "head_dim") or number(
        config, name, "hidden_size", "n_embd"
    ) // heads(config, name)


def number(config: Config, name: str, *keys: str) -> int:
    """Return the first of `keys` that the config has.

    Raises:
        PlanError: there is none, or it is no whole number above 0.
    """
    value = optional(config, name, *keys)
    if not value:
        raise PlanError(f"The config of {name} lacks {keys[0]}. Give it, a whole number above 0.")
    return value


def optional(config: Config, name: str, *keys: str) -> int:
    """Return the first of `keys` that the config has, or 0.

    Raises:
        PlanError: it is no whole number, or a negative one.
    """
    key = next((key for key in keys if config.get(key) is not None), None)
    if key is None:
        return 0
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanError(f"The config of {name} has {key}: {value!r}. Give a whole number.")
    return value
