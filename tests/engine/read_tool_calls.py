"""Says what tool calls vLLM's own parsers read in what models write; runs in the engine image.

Standard input is a JSON object, name of a case to `parser` (the name of a preset's
tool_call_parser) and `text` (what a model writes). Standard output is one of the same names, to
`content` and `calls`, each with `name` and `arguments`.
"""

import json
import sys
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

# What the models' own tokenizers have as one token each.
TOKENS = (
    "<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_start|>", "<|im_end|>",
    "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
)  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
                "required": ["path"],
            },
        },
    }
    for name in ("read_file", "list_files")
]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with the models' own marks."""
    vocabulary = {
        letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())
    }
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=plain)
    made.add_tokens(list(TOKENS))
    return made


def read(case: dict[str, str], words: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return what a parser reads in a text."""
    request = ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "?"}], tools=TOOLS, tool_choice="auto"
    )
    parser = ToolParserManager.get_tool_parser(case["parser"])(words, request.tools)
    found = parser.extract_tool_calls(case["text"], request)
    return {
        "content": found.content,
        "calls": [
            {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
            for call in found.tool_calls
        ],
    }


def main() -> None:
    """Read the cases."""
    words = tokenizer()
    print(json.dumps({name: read(case, words) for name, case in json.load(sys.stdin).items()}))


main()
