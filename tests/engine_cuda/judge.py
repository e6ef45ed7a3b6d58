"""Have vLLM's own code judge command lines, on GPUs that are not there. Runs in the engine image.

Reads cases as a JSON list from standard input: name, argv (``vllm serve MODEL …``), environment,
gpus and config, the model's config.json. Prints the verdicts as one line of JSON, by name: what
vLLM made of a command, or what it said as it refused.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.engine_cuda import nvml_stub

ARGUMENTS = 3  # of ``vllm serve MODEL``
END_OF_LOG = 4000  # characters


def judge(case: Mapping[str, Any], model: Path) -> dict[str, Any]:
    """Return what vLLM makes of a command line, by the steps of ``vllm serve``.

    Args:
        case: as on standard input.
        model: a directory for the model's config.json.

    Raises:
        Exception: whatever vLLM raises about it.
        SystemExit: the parser refused an argument.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    (model / "config.json").write_text(json.dumps(case["config"]))
    # A reasoning parser looks its marks up.
    write_tokenizer(model)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(
        [str(model), *case["argv"][ARGUMENTS:]]
    )
    if parsed.model_tag is not None:
        parsed.model = parsed.model_tag
    validate_parsed_serve_args(parsed)
    config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config()
    return {
        "platform": type(current_platform).__name__,
        "compute_capability": list(current_platform.get_device_capability()),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "kv_cache_dtype": str(config.cache_config.cache_dtype),
        "quantization": config.model_config.quantization,
        "max_model_len": config.model_config.max_model_len,
        "world_size": config.parallel_config.world_size,
        "expert_parallel": config.parallel_config.enable_expert_parallel,
        "model_runner": "V2" if config.use_v2_model_runner else "V1",
        "kv_connector": config.kv_transfer_config and config.kv_transfer_config.kv_connector,
    }


def write_tokenizer(model: Path) -> None:
    """Write a tokenizer of bytes, with the marks around thoughts as one token each."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_tokens([AddedToken(mark) for mark in ("<think>", "</think>")])
    made.save(str(model / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (model / "tokenizer_config.json").write_text(json.dumps(named))


def judged(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict of a process of its own: accepted, or refused with the end of its log.

    vLLM remembers what it learned of the GPUs; a fork of one that has asked for nothing yet saves
    half a minute of imports a case.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, result, log = Path(folder), Path(folder, "result"), Path(folder, "log")
        child = os.fork()
        if not child:
            with log.open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                code = 1
                try:
                    os.environ.update(case["environment"])
                    nvml_stub.install(case["gpus"])
                    result.write_text(json.dumps(judge(case, model)))
                    code = 0
                except BaseException:  # noqa: BLE001 - each is a refusal; the parent goes on
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return {"accepted": json.loads(result.read_text())}
        return {"refused": log.read_text()[-END_OF_LOG:]}


def main() -> None:
    """Judge the cases on standard input."""
    cases = json.load(sys.stdin)
    nvml_stub.install(cases[0]["gpus"])
    import vllm.entrypoints.launchers.cli_args  # noqa: F401 - for all children at once

    print(json.dumps({case["name"]: judged(case) for case in cases}))


if __name__ == "__main__":
    main()
