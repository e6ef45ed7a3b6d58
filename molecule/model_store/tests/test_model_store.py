"""The model_store role on a lab host: a model made, one from a stub of the hub, one given."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

MODELS = "/var/lib/infbox/models"
RANDOM = f"{MODELS}/random-qwen2-0"
HUB = f"{MODELS}/stub--model-ea3f2471cf1b"

LOAD = """
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained("/model")
tokenizer = transformers.AutoTokenizer.from_pretrained("/model")
text = "def twice(x):\\n    return 2 * x\\n"
ids = tokenizer(text, return_tensors="pt")["input_ids"]
assert tokenizer.decode(ids[0]) == text
assert model(ids).logits.shape == (1, ids.shape[1], 4096)
tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
chat = [{"role": "user", "content": "question"}]
prompt = tokenizer.apply_chat_template(
    chat, tools=tools, tokenize=False, add_generation_prompt=True
)
assert "look_up" in prompt and prompt.endswith("<|im_start|>assistant\\n"), prompt
print(sum(weight.numel() for weight in model.parameters()))
"""


@pytest.fixture(autouse=True)
def journal(host: Host, request: pytest.FixtureRequest) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(host.run(f"ls -laR {MODELS}; journalctl --unit stub-hub --no-pager -n 40").stdout)


def marker(host: Host, folder: str) -> Any:
    return json.loads(host.file(f"{folder}/infbox-model.json").content_string)


def test_the_random_model_loads_as_the_engines_user(host: Host) -> None:
    image = host.check_output("docker images --quiet | head -1")
    host.run(f"cat > /root/load.py <<'EOF'\n{LOAD}\nEOF")
    parameters = host.check_output(
        f"docker run --rm --network none --user 64430:64430 --volume {RANDOM}:/model:ro"
        f" --volume /root/load.py:/load.py:ro --entrypoint python3 {image} /load.py"
    )
    assert 20e6 < int(parameters.splitlines()[-1]) < 30e6


def test_the_random_model_is_named_as_what_it_is(host: Host) -> None:
    assert marker(host, RANDOM)["source"] == "random"


def test_the_downloaded_model_says_where_it_is_from(host: Host) -> None:
    said = marker(host, HUB)
    assert (said["source"], said["repository"]) == ("hub", "stub/model")
    assert said["revision"] == "ea3f2471cf1b1f0db85067f1ef93848e38e88c25"


@pytest.mark.parametrize("folder", [RANDOM, HUB])
def test_every_file_is_the_one_that_was_hashed(host: Host, folder: str) -> None:
    listed = {file["path"]: file for file in marker(host, folder)["files"]}
    assert set(host.file(folder).listdir()) == {*listed, "infbox-model.json"}
    for name, said in listed.items():
        file = host.file(f"{folder}/{name}")
        assert (file.size, file.sha256sum) == (said["size"], said["sha256"])


def test_files_that_the_engine_does_not_need_are_not_downloaded(host: Host) -> None:
    assert not host.file(f"{HUB}/model.bin").exists


def test_the_model_is_readable_to_all_and_writable_to_root_alone(host: Host) -> None:
    weights = host.file(f"{RANDOM}/model.safetensors")
    assert (weights.user, weights.mode) == ("root", 0o644)


def test_the_token_is_for_root_alone_and_nowhere_else(host: Host) -> None:
    token = host.file("/etc/infbox/secrets/hub-token")
    assert (token.user, token.mode) == ("root", 0o600)
    assert host.run(f"grep --recursive --quiet the-token {MODELS}").rc == 1


def test_nothing_half_done_is_left(host: Host) -> None:
    assert not [name for name in host.file(MODELS).listdir() if name.endswith(".part")]
    assert host.check_output("docker ps --all --quiet") == ""
