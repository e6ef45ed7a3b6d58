"""The model_store role on a lab host: a model made, one from a stub of the hub, one given."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.rerun import play

MODELS = "/var/lib/infbox/models"
RANDOM = f"{MODELS}/random-qwen2-0"
IMAGE = f"{MODELS}/huggingfacetb--smollm2-135m-instruct-0.1.2"
HUB = f"{MODELS}/stub--model-ea3f2471cf1b"
OTHER_PLACE = f"{MODELS}/stub--other-ea3f2471cf1b"
FRAGMENT = "/etc/infbox/releases/1/compose/vllm.yml"
SCENARIO = Path(__file__).resolve().parents[1]
TOKEN = "the-token"  # noqa: S105

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
ANSWER = """
import transformers
model = transformers.AutoModelForCausalLM.from_pretrained("/model", dtype="float32")
tokenizer = transformers.AutoTokenizer.from_pretrained("/model")
chat = [{"role": "user", "content": "Write a Python function that returns the factorial of n."}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=60, do_sample=False)
print(tokenizer.decode(answer[0][prompt["input_ids"].shape[1]:]))
"""
JOURNAL = f"ls -laR {MODELS}; journalctl --unit stub-hub --no-pager -n 40"


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


def test_the_model_of_the_image_writes_what_is_meant(host: Host) -> None:
    image = host.check_output("docker images --quiet | head -1")
    host.run(f"cat > /root/answer.py <<'EOF'\n{ANSWER}\nEOF")
    answer = host.check_output(
        f"docker run --rm --network none --user 64430:64430 --volume {IMAGE}:/model:ro"
        f" --volume /root/answer.py:/answer.py:ro --entrypoint python3 {image} /answer.py"
    )
    assert "return n * factorial(n - 1)" in answer
    said = marker(host, IMAGE)
    assert (said["source"], said["revision"]) == ("image", "0.1.2")


def test_the_random_model_is_named_as_what_it_is(host: Host) -> None:
    assert marker(host, RANDOM)["source"] == "random"


def test_the_downloaded_model_says_where_it_is_from(host: Host) -> None:
    said = marker(host, HUB)
    assert (said["source"], said["repository"]) == ("hub", "stub/model")
    assert said["revision"] == "ea3f2471cf1b1f0db85067f1ef93848e38e88c25"


@pytest.mark.parametrize("folder", [RANDOM, HUB, IMAGE])
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


OTHER = {
    "model_store_from": "hub",
    "model_store_repository": "stub/other",
    "model_store_endpoint": "http://127.0.0.1:18999",
    "model_store_progress_seconds": 1,
}
# One whose preset names no commit.
OPEN: dict[str, Any] = {**OTHER, "model_store_repository": "stub/open", "model_store_revision": ""}
HELD, MOVED = "a" * 40, "b" * 40


def commits(host: Host) -> dict[str, str]:
    record = json.loads(host.file("/etc/infbox/models/commits.json").content_string)
    return {model: entry["commit"] for model, entry in record.items()}


def operate(entry: str, *more: str, **variables: Any) -> tuple[int, str]:
    """Run an entry point of the role as a person would.

    Returns:
        The exit status, and all that was to be seen.
    """
    return play(SCENARIO / "operate.yml", *more, entry=entry, **variables)


def test_a_person_sees_how_far_a_download_is_and_nobody_sees_the_token() -> None:
    status, seen = operate("main", "-vvv", **OTHER, model_store_token=TOKEN)
    assert status == 0, seen
    lines = re.findall(r"\(item=model: (.*)\)", seen)
    assert any(re.fullmatch(r".* [kM]B of 3\.0 MB, \d+ %, .*", line) for line in lines), lines
    assert lines[-1] == "there"
    assert TOKEN not in seen


def test_damage_is_found_named_and_mended(host: Host) -> None:
    weights = f"{OTHER_PLACE}/model.safetensors"
    host.check_output(f"printf X | dd of={weights} bs=1 seek=1000 conv=notrunc status=none")
    status, seen = operate("verify")
    assert status != 0
    assert f"{OTHER_PLACE}: model.safetensors has the SHA-256" in seen
    assert "infbox_models_repair=true" in seen
    status, seen = operate("main", **OTHER, model_store_again=True)
    assert status == 0, seen
    real = host.file("/srv/hub/stub/other/model.safetensors")
    assert host.file(weights).sha256sum == real.sha256sum


def test_a_folder_of_the_controller_is_copied_and_verified(host: Host, tmp_path: Path) -> None:
    for name in host.file(HUB).listdir():
        contents = host.check_output(f"base64 {HUB}/{name}")
        (tmp_path / name).write_bytes(base64.b64decode(contents))
    marker = tmp_path / "infbox-model.json"
    marker.write_text(marker.read_text().replace("stub/model", "stub/copied"))
    copied = {"model_store_repository": "stub/copied", "model_store_upload": str(tmp_path)}
    status, seen = operate("main", **OTHER | copied)
    assert status == 0, seen
    assert re.search(r"Copy model file model\.safetensors, 2\.86 MB, \d of 4", seen)
    copy = host.file(f"{MODELS}/stub--copied-ea3f2471cf1b/model.safetensors")
    assert copy.sha256sum == host.file(f"{HUB}/model.safetensors").sha256sum


def test_another_host_of_the_inventory_is_copied_from(host: Host) -> None:
    # The same host by another name, with a store of its own.
    source = {"model_store_from_host": "other", "model_store_repository": "stub/model"}
    status, seen = operate("main", **OTHER | source, store="/srv/store")
    assert status == 0, seen
    copy = host.file("/srv/store/stub--model-ea3f2471cf1b/model.safetensors")
    assert copy.sha256sum == host.file(f"{HUB}/model.safetensors").sha256sum
    assert marker(host, "/srv/store/stub--model-ea3f2471cf1b")["source"] == "copy"


def test_a_model_is_downloaded_while_the_engine_image_is_built(host: Host) -> None:
    host.check_output(
        "cp -r /srv/hub/stub/other /srv/hub/stub/open"
        " && head -c 30000000 /dev/urandom > /srv/hub/stub/open/model.safetensors"
        f" && echo {HELD} > /srv/hub/latest"
    )
    since = host.check_output("date +%s")
    status, seen = play(SCENARIO / "fetch.yml", **OPEN)
    assert status == 0, seen
    assert f"from now on this host holds to {HELD}" in " ".join(seen.split())
    created = host.check_output(
        f"docker events --since {since} --until $(date +%s) --filter event=create"
        f" --filter container=infbox-model-stub--open-{HELD[:12]}"
        " --format '{{.Actor.Attributes.image}}'"
    )
    # It began before the engine image was there, and was not begun anew with that.
    assert created == "infbox/hub:1"
    assert marker(host, f"{MODELS}/stub--open-{HELD[:12]}")["revision"] == HELD


def test_a_recorded_commit_is_held_to_until_an_update_is_asked_for(host: Host) -> None:
    host.check_output(
        f"echo {MOVED} > /srv/hub/latest"
        " && head -c 1000000 /dev/urandom > /srv/hub/stub/open/model.safetensors"
    )
    status, seen = operate("main", **OPEN)
    assert status == 0, seen
    assert "changed=0" in seen
    assert commits(host) == {"stub/open": HELD}
    status, seen = operate("main", **OPEN, model_store_update=True)
    assert status == 0, seen
    assert commits(host) == {"stub/open": MOVED}
    assert marker(host, f"{MODELS}/stub--open-{MOVED[:12]}")["revision"] == MOVED


def test_what_nothing_uses_is_removed_on_request_alone(host: Host) -> None:
    folder = FRAGMENT.rpartition("/")[0]
    host.check_output(f"mkdir -p {folder} && echo 'command: [serve, {HUB}]' > {FRAGMENT}")
    keep = {"model_store_named_in": [FRAGMENT], "model_store_wanted": [RANDOM.rpartition("/")[2]]}
    status, seen = operate("prune", "--check", **keep)
    assert status == 0, seen
    assert "stub--other" in seen
    assert host.file(OTHER_PLACE).exists
    status, seen = operate("prune", **keep)
    assert status == 0, seen
    there = [name for name in host.file(MODELS).listdir() if not name.startswith(".")]
    assert sorted(f"{MODELS}/{name}" for name in there) == sorted([HUB, RANDOM])
