"""The whole line: a bare host, `site.yml`, and clients that nobody here wrote.

The tests run in the order they stand in: the last ones restart and reboot the host.
"""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request

import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from tokenizers import Tokenizer

from lab.client import fetch_tokenizer
from lab.deployment import wait_for
from lab.shell import LabError
from tests.system.conftest import WORKSPACE, Site

pytestmark = pytest.mark.lab

VLLM_METRICS = "http://127.0.0.1:8000/metrics"
LMCACHE_METRICS = "http://127.0.0.1:8020/metrics"
# When everything that a request passes was started.
STARTED = (
    "systemctl show --value --property=ActiveEnterTimestamp infbox-gateway infbox-keys; "
    "docker inspect --format '{{.State.StartedAt}}' infbox-caddy-1 infbox-vllm-1"
)
WARM_SHARE = 0.9
LOOK_UP: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "look_up",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"found": {"type": "boolean"}},
            "required": ["found"],
            "additionalProperties": False,
        },
    },
}


def test_a_second_run_changes_nothing(second_run: str) -> None:
    assert "changed=0 " in second_run, second_run[-3000:]


def test_the_run_ends_with_the_endpoint_and_the_place_of_the_key(site: Site) -> None:
    assert f"Models    coder, coder@{WORKSPACE}" in site.output
    assert site.host.address in site.output
    assert "/etc/infbox/secrets/api-keys/" in site.output


def test_only_caddy_and_ssh_listen_beyond_loopback(site: Site) -> None:
    listeners = site.ssh("ss --no-header --listening --tcp --numeric").splitlines()
    addresses = {line.split()[3] for line in listeners}
    beyond = {a for a in addresses if not a.startswith(("127.", "[::1]"))}
    assert {a.rpartition(":")[2] for a in beyond} <= {"22", "80", "443", "8443"}, beyond


def test_a_chat_is_answered(site: Site) -> None:
    answer = site.client.openai.chat.completions.create(
        model="coder", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_a_chat_streams(site: Site) -> None:
    stream = site.client.openai.chat.completions.create(
        model="coder",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=8,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    assert len([chunk for chunk in stream if chunk.choices]) > 2


def test_tool_calls_pass_through(site: Site) -> None:
    answer = site.client.openai.chat.completions.create(
        model=f"coder@{WORKSPACE}",
        messages=[{"role": "user", "content": "Look it up"}],
        tools=[LOOK_UP],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
        max_tokens=60,
        temperature=0,
        logit_bias=without_white_space(fetch_tokenizer(site.host)),
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "look_up"
    assert set(json.loads(calls[0].function.arguments)) == {"found"}


def test_log_probabilities_are_answered_and_the_engine_lives(site: Site) -> None:
    answer = site.client.openai.chat.completions.create(
        model="coder",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=2,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 2
    assert status_of(site, "/health", key=False) == 200


def test_the_model_list_has_the_workspaces(site: Site) -> None:
    names = [model.id for model in site.client.openai.models.list()]
    assert sorted(names) == ["coder", f"coder@{WORKSPACE}"]


def test_an_unknown_workspace_is_refused_by_name(site: Site) -> None:
    with pytest.raises(openai.NotFoundError, match=WORKSPACE):
        site.client.openai.chat.completions.create(
            model="coder@nowhere", messages=[{"role": "user", "content": "Hello"}]
        )


def test_a_wrong_key_is_refused(site: Site) -> None:
    stranger = site.client.openai.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_rotated_key_ends_with_the_next_request_and_nothing_is_restarted(site: Site) -> None:
    before = site.client.openai
    since = site.ssh(STARTED)
    site.ssh("/opt/infbox/watcher/venv/bin/infbox-keys rotate team")
    with pytest.raises(openai.AuthenticationError):
        before.with_options(max_retries=0).models.list()
    key = site.ssh("cat /etc/infbox/secrets/api-keys/team").strip()
    after = before.with_options(api_key=key)
    assert [model.id for model in after.models.list()]
    assert site.ssh(STARTED) == since
    # Back to the one that the other tests hold, as somebody would who puts a key there by hand.
    site.ssh(f"printf %s {before.api_key} > /etc/infbox/secrets/api-keys/team")
    site.ssh("echo '{\"team\": {}}' | /opt/infbox/watcher/venv/bin/infbox-keys apply")
    assert [model.id for model in before.models.list()]


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/invocations", "/tokenize", "/v1/../metrics", "/v1/load_lora_adapter", "/docs"],
)
def test_other_paths_are_unknown_at_the_edge(site: Site, path: str) -> None:
    assert status_of(site, path) == 404


def test_health_needs_no_key(site: Site) -> None:
    assert status_of(site, "/health", key=False) == 200


def test_of_a_warm_question_less_than_a_fifth_is_computed(site: Site) -> None:
    pack_tokens = site.client.wait_until_warm()["tokens"]
    cold, warm = site.client.ask(cold=True), site.client.ask()
    assert cold.cached_tokens == 0
    assert warm.cached_tokens >= WARM_SHARE * pack_tokens
    computed = [answer.prompt_tokens - answer.cached_tokens for answer in (cold, warm)]
    # How much sooner it begins, bench.warm measures.
    assert computed[1] < computed[0] / 5
    assert warm.text == cold.text


def test_a_save_is_warm_and_in_the_next_prompt(site: Site) -> None:
    since = time.time()
    marker = f"saved_by_the_system_test_{time.time_ns()}"
    with (site.tree / "ansible.cfg").open("a") as file:
        file.write(f"# {marker}\n")
    status = site.client.wait_until_saved(since)
    after = site.client.ask()
    assert marker in site.client.prompt(fetch_tokenizer(site.host))
    # Where the pack has no room left, the save begins another generation, which may be shorter.
    assert after.prompt_tokens > status["tokens"]
    assert after.cached_tokens >= WARM_SHARE * status["tokens"]


def test_the_pack_is_warmed_by_the_engine_s_own_tokens(site: Site) -> None:
    log = site.ssh("journalctl --unit infbox-watcher --no-pager --output cat")
    assert "event=warm " in log
    assert "other-tokens" not in log, "the tokenizer's file and the engine disagree"


def said(site: Site, **fields: object) -> str | None:
    """Return the answer to a request with further fields."""
    answer = site.client.openai.chat.completions.create(
        model=f"{site.client.model}@{WORKSPACE}",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=1,
        extra_body=fields,
    )
    return answer.id


def test_the_gateway_down_leaves_answers_without_context(site: Site) -> None:
    with_pack = site.client.ask().prompt_tokens
    site.ssh("systemctl stop infbox-gateway")
    try:
        # Within the second until Caddy has noticed, a request may fail; clients try again.
        wait_for("an answer without context", lambda: asked_with(site, at_most=with_pack // 10), 10)
        # Nobody has looked at it but the engine itself.
        for field in ({"priority": -5}, {"kv_transfer_params": {"do_remote_prefill": True}}):
            with pytest.raises(openai.BadRequestError, match="is not for clients"):
                said(site, **field)
        assert said(site, priority=0, cache_salt="a", other=1)
    finally:
        site.ssh("systemctl start infbox-gateway")
    wait_for("the pack being back", lambda: asked_with(site, at_least=with_pack), 30)


def test_the_watcher_down_leaves_the_last_pack(site: Site) -> None:
    with_pack = site.client.ask().prompt_tokens
    site.ssh("systemctl stop infbox-watcher")
    try:
        assert site.client.ask().prompt_tokens == with_pack
    finally:
        site.ssh("systemctl start infbox-watcher")
    site.client.wait_until_warm()


def test_a_reboot_brings_everything_back_by_itself_and_the_pack_from_disk(site: Site) -> None:
    before = boot_id(site)
    tokens = site.client.wait_until_warm()["tokens"]
    text = site.client.ask().text
    # The watcher would have the pack warm before anybody asked for it.
    site.ssh("systemctl disable infbox-watcher")
    site.ssh("(sleep 1; systemctl reboot) > /dev/null 2>&1 &")
    wait_for("a new boot", lambda: boot_id(site) not in ("", before) or None, 180)
    wait_for("vLLM answering", lambda: engine_answers(site), 300)

    answer = site.client.ask()
    site.ssh("systemctl enable --now infbox-watcher")

    assert answer.text == text
    assert answer.cached_tokens >= WARM_SHARE * tokens
    loaded = site.metric(VLLM_METRICS, "vllm:external_prefix_cache_hits_total")
    assert loaded >= WARM_SHARE * tokens
    computed = site.metric(
        VLLM_METRICS, "vllm:prompt_tokens_by_source_total", 'source="local_compute"'
    )
    assert computed < (1 - WARM_SHARE) * tokens
    chunks = site.metric(LMCACHE_METRICS, "lmcache_mp_l2_prefetch_load_completed_chunks_total")
    assert chunks * 256 >= WARM_SHARE * tokens
    site.client.wait_until_warm()


def without_white_space(tokenizer: Tokenizer) -> dict[str, int]:
    """Return a bias against white space, in which a model of random weights would lose itself."""
    ids = range(tokenizer.get_vocab_size())
    texts = {str(i): tokenizer.decode([i], skip_special_tokens=False) for i in ids}
    return {i: -100 for i, text in texts.items() if any(map(str.isspace, text))}


def status_of(site: Site, path: str, *, key: bool = True) -> int:
    """Return the status of a GET of exactly `path`, unnormalised."""
    context = ssl.create_default_context(cafile=f"{site.inventory.parents[1]}/system.crt")
    request = urllib.request.Request(f"https://{site.host.address}{path}")
    if key:
        request.add_header("Authorization", f"Bearer {site.client.openai.api_key}")
    try:
        with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310  # https
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def engine_answers(site: Site) -> bool | None:
    """Return True once the edge says that the engine is well."""
    try:
        return status_of(site, "/health", key=False) == 200 or None
    except OSError:
        return None


def asked_with(site: Site, *, at_least: int = 0, at_most: int = sys.maxsize) -> bool | None:
    """Return True once a question is answered whose prompt has so many tokens."""
    try:
        tokens = site.client.ask().prompt_tokens
    except openai.InternalServerError:
        return None
    return at_least <= tokens <= at_most or None


def boot_id(site: Site) -> str:
    """Return what differs from boot to boot; empty while the host is away."""
    try:
        return site.ssh("stat --format %Y /run/systemd/system")
    except LabError:
        return ""
