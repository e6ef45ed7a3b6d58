"""Asks classes of models as vLLM does at each start; runs in the engine image."""

from typing import Any, NoReturn

from vllm.model_executor.models import registry


def refuse(_: Any) -> NoReturn:
    """Stand where vLLM would start a process that imports it once more."""
    raise SystemExit("the image does not know what the class can do")


registry._run_in_subprocess = refuse
for name in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
    assert registry.ModelRegistry.models[name].inspect_model_cls().is_text_generation_model
