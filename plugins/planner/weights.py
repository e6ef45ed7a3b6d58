"""How many bytes a model's weights have."""

from collections.abc import Mapping
from typing import Any

from plugins.planner.errors import PlanError


def index_bytes(index: Mapping[str, Any], name: str) -> int:
    """Return the bytes of all weights from a repository's `model.safetensors.index.json`.

    Args:
        index: the file's contents.
        name: the repository, for the message.

    Returns:
        `metadata.total_size`: bytes of all tensors, which is what is loaded. It counts a vision
        tower and a draft head too where the repository has them.

    Raises:
        PlanError: there is no such number.

    Source: huggingface_hub, `split_torch_state_dict_into_shards`, which writes the index.
    """
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    if isinstance(size, bool) or not isinstance(size, int | float) or size <= 0:
        raise PlanError(
            f"The safetensors index of {name} does not say how large the weights are"
            " (metadata.total_size). Give weights_bytes in the preset's model."
        )
    return int(size)
