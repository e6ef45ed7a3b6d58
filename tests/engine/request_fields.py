"""Prints which fields each of the engine's paths takes, as JSON; runs in the engine image."""

import json
import typing
from collections.abc import Iterator
from typing import Any

import vllm
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

MODELS = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
    "/v1/messages/count_tokens": AnthropicCountTokensRequest,
    "/v1/embeddings": EmbeddingRequest,
}


def fields(model: Any) -> Iterator[str]:
    """Return the fields of a model, or of each of several."""
    for one in typing.get_args(model):
        yield from fields(one)
    for name, field in getattr(model, "model_fields", {}).items():
        yield name
        yield from filter(None, (field.alias, field.validation_alias))


found = {path: sorted(set(fields(model))) for path, model in MODELS.items()}
print(json.dumps({"fields": found, "vllm": vllm.__version__.partition("+")[0]}))
