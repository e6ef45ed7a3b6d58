"""Put a model into a folder, whole or not at all.

Runs in the engine image, which has the hub's client and transformers. The model grows in a staging
folder beside its place, is verified there, gets a file that says what it is, and takes its place by
one rename.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "infbox-model.json"

# How Qwen2 parts a text before it makes tokens of it (the pattern in its tokenizer.json).
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# How people and tools speak to the model, in ChatML.
CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
<|im_start|>system
{{ system }}
{%- if tools %}

You may call these functions, described as JSON:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
To call one, answer with <tool_call>{"name": ..., "arguments": {...}}</tool_call>.
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% elif not (loop.first and message.role == 'system') -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments \
if call.function.arguments is string else call.function.arguments | tojson }}}</tool_call>
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


class ModelError(Exception):
    """The model cannot be put there; the message says what to do."""


@dataclass(frozen=True)
class File:
    """A file of a model.

    Attributes:
        path: relative to the model's folder.
        size: bytes.
        sha256: hexadecimal digits; empty where it is not known.
    """

    path: str
    size: int
    sha256: str


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[File]:
    """Return the files of a model, hashed, in order of their paths."""
    return [
        File(str(path.relative_to(folder)), path.stat().st_size, sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    ]


def verify(got: Iterable[File], expected: Iterable[File]) -> None:
    """Compare files with what they should be.

    Raises:
        ModelError: one is missing, has another size or another hash.
    """
    there = {file.path: file for file in got}
    for file in expected:
        found = there.get(file.path)
        if found is None:
            raise ModelError(f"{file.path} is missing after the download. Run it again.")
        if found.size != file.size or (file.sha256 and found.sha256 != file.sha256):
            raise ModelError(
                f"{file.path} is not what the hub says ({found.size} bytes, {found.sha256} in place"
                f" of {file.size} bytes, {file.sha256 or 'any hash'}). Run it again."
            )


def require_model(files: Iterable[File]) -> None:
    """Make sure that files are those of a model that the engine can load.

    Raises:
        ModelError: something that each model has is missing.
    """
    paths = {file.path for file in files}
    for what, there in (
        ("config.json", "config.json" in paths),
        ("*.safetensors", any(path.endswith(".safetensors") for path in paths)),
        ("tokenizer.json", "tokenizer.json" in paths),
    ):
        if not there:
            raise ModelError(f"This model has no {what}. Choose one that has.")


def finish(staging: Path, place: Path, said: Mapping[str, Any], files: Iterable[File]) -> None:
    """Say in the staging folder what it is, and move it to its place.

    Args:
        staging: folder with the whole model, on the same file system as the place.
        place: where it will be; nothing is there yet.
        said: what else the marker says, such as source and revision.
        files: the model's files.
    """
    listed = [vars(file) for file in files]
    marker = {**said, "bytes": sum(file["size"] for file in listed), "files": listed}
    (staging / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    # The engine runs as another user, and the libraries write some files for their owner only.
    for path in [staging, *staging.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    # The name must not outlive a power cut that the contents do not.
    os.sync()
    staging.rename(place)


def fetch(
    repository: str, revision: str, ignore: list[str], endpoint: str, staging: Path
) -> list[File]:
    """Download a model; what an earlier try left in the staging folder is used.

    Args:
        repository: its name on the hub.
        revision: a commit.
        ignore: patterns of files that are not wanted.
        endpoint: address of the hub.
        staging: folder to download to.

    Returns:
        Its files, as verified.

    Raises:
        ModelError: the hub refuses, or what came is not what it says.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi(endpoint=endpoint)
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
        api.snapshot_download(
            repository, revision=revision, local_dir=staging, ignore_patterns=ignore
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} is open only to those who accepted its terms. Accept them on the hub and"
            f" give a token of that account. ({error})"
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"The hub does not give {repository} at {revision}: {error}") from None
    # Which errors of the network come through depends on the client's version.
    except Exception as error:
        raise ModelError(
            f"The download of {repository} from {endpoint} broke off ({type(error).__name__}:"
            f" {error}). Run it again, set a mirror or a proxy, or give a model that is on this"
            " host already."
        ) from error
    # The client's own notes on what it downloaded.
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    siblings = filter_repo_objects(
        info.siblings or [], ignore_patterns=ignore, key=lambda sibling: sibling.rfilename
    )
    expected = [
        File(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else "")
        for sibling in siblings
    ]
    files = files_below(staging)
    verify(files, expected)
    return files


def make_random(seed: int, staging: Path) -> list[File]:
    """Make a small Qwen2 model whose weights are random: all of the engine runs, no word is meant.

    Args:
        seed: the same number gives the same model.
        staging: empty folder to write to.

    Returns:
        Its files.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    tokenizer = Tokenizer(models.BPE())
    # As transformers reads any tokenizer of a Qwen2 model, whatever its file says.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The standard library is Python source that every image has.
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    tokenizer.train([str(path) for path in sources], trainer)
    end = tokenizer.token_to_id("<|im_end|>")
    pad = tokenizer.token_to_id("<|endoftext|>")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(staging)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(staging)
    return files_below(staging)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    sources = top.add_subparsers(dest="source", required=True)
    hub = sources.add_parser("hub", help="download a model")
    hub.add_argument("--repository", required=True)
    hub.add_argument("--revision", required=True)
    hub.add_argument("--endpoint", required=True)
    hub.add_argument("--ignore", action="append", default=[], metavar="PATTERN")
    random = sources.add_parser("random", help="make a small model with random weights")
    random.add_argument("--seed", type=int, default=0)
    for source in (hub, random):
        source.add_argument("--place", type=Path, required=True, help="where the model will be")
    return top


def put(arguments: argparse.Namespace) -> None:
    """Put the model that the command line names into its place.

    Raises:
        ModelError: it cannot be.
    """
    place: Path = arguments.place
    if (place / MARKER).exists():
        return
    if place.exists():
        raise ModelError(f"{place} is there and was not made here. Move it away.")
    staging = place.with_name(f".{place.name}.part")
    said: dict[str, Any]
    if arguments.source == "hub":
        said = {
            "source": "hub",
            "repository": arguments.repository,
            "revision": arguments.revision,
        }
        staging.mkdir(parents=True, exist_ok=True)
        files = fetch(
            arguments.repository,
            arguments.revision,
            arguments.ignore,
            arguments.endpoint,
            staging,
        )
    else:
        said = {"source": "random", "seed": arguments.seed}
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        files = make_random(arguments.seed, staging)
    require_model(files)
    finish(staging, place, said, files)


def main() -> int:
    """Run; an error is one message on standard error and exit status 1."""
    try:
        put(parser().parse_args())
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
