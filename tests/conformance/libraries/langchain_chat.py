"""langchain's standard tests of a chat model, by OpenAI's variables: `ChatOpenAI` of either API.

They run in an environment of their own (``requirements/clients/langchain-tests.in``).
"""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

MODEL = os.environ["CONFORMANCE_MODEL"]
TOKENS = int(os.environ["CONFORMANCE_TOKENS"])
TIMEOUT = 300  # seconds


class TestChatCompletions(ChatModelIntegrationTests):
    """`/v1/chat/completions`."""

    responses = False

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            # What a small model writes has no end.
            "max_tokens": TOKENS,
            "max_retries": 0,
            "timeout": TIMEOUT,
            "stream_usage": True,
            "use_responses_api": self.responses,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL


class TestResponses(TestChatCompletions):
    """`/v1/responses`."""

    responses = True
