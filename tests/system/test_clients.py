"""The gateway, asked through Caddy by clients that nobody here wrote.

The model has random weights, so that answers mean nothing and tool calls are forced.
"""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from openai.types.responses import FunctionToolParam
from schemathesis import Case

from lab.client import fetch_tokenizer
from lab.deployment import wait_for
from lab.settings import STATE
from lab.tunnel import forwarded
from tests.conformance.schema import description, each_request
from tests.system.conftest import WORKSPACE, Site
from tests.system.test_site import LOOK_UP, VLLM_METRICS, WARM_SHARE, without_white_space

# Prices of models, which it would otherwise fetch as it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

pytestmark = pytest.mark.lab

MODEL = f"coder@{WORKSPACE}"
QUESTION = "Where do I begin?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
LOOK_UP_SCHEMA: Any = LOOK_UP["function"]["parameters"]
BLOCK = 128
LONG = 8000  # tokens
GATEWAY_METRICS = "http://127.0.0.1:8010/metrics"
TOO_LONG = "word " * 20_000


class Clients(NamedTuple):
    """The clients, and what the third needs with each call."""

    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    litellm: Mapping[str, Any]


@pytest.fixture(scope="module")
def clients(site: Site) -> Iterator[Clients]:
    """Clients that ask through Caddy."""
    authority = str(STATE / f"{site.host.instance}.crt")
    key = site.client.openai.api_key
    address = f"https://{site.host.address}"
    context = ssl.create_default_context(cafile=authority)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", authority)
        patch.setattr(litellm, "suppress_debug_info", True)
        yield Clients(
            site.client.openai,
            anthropic.Anthropic(
                base_url=address,
                api_key=key,
                max_retries=0,
                timeout=300,
                http_client=anthropic.DefaultHttpxClient(verify=context),
            ),
            {"api_base": address, "api_key": key, "max_retries": 0},
        )


@pytest.fixture(scope="module")
def warm(site: Site) -> float:
    """The least number of tokens that a warm pack has in the cache."""
    return WARM_SHARE * int(site.client.wait_until_warm()["tokens"])


def test_openai_chat(clients: Clients, warm: float) -> None:
    raw = clients.openai.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=3
    )
    usage = raw.parse().usage
    assert usage and usage.prompt_tokens_details
    assert (usage.prompt_tokens_details.cached_tokens or 0) >= warm
    assert float(raw.headers["x-infbox-cached-tokens"]) >= warm
    assert int(raw.headers["x-infbox-generation"]) > 0
    assert int(raw.headers["x-infbox-version"]) > 0


def test_openai_chat_streams(clients: Clients, warm: float) -> None:
    stream = clients.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be brief."}, *MESSAGES],
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = list(stream)
    assert last.usage and last.usage.prompt_tokens_details
    assert (last.usage.prompt_tokens_details.cached_tokens or 0) >= warm


def test_openai_responses(clients: Clients, warm: float) -> None:
    for instructions in (None, "Be brief."):
        answer = clients.openai.responses.create(
            model=MODEL, input=QUESTION, instructions=instructions, max_output_tokens=3
        )
        assert answer.usage
        assert answer.usage.input_tokens_details.cached_tokens >= warm
        assert answer.instructions is None, "the pack does not come back"


def test_openai_responses_stream(clients: Clients, warm: float) -> None:
    stream = clients.openai.responses.create(
        model=MODEL, input=MESSAGES, max_output_tokens=3, stream=True
    )
    *_, last = list(stream)
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.usage
    assert last.response.usage.input_tokens_details.cached_tokens >= warm


@pytest.mark.parametrize("prompt", ["def first(", ["def one(", "def other("]], ids=["one", "two"])
def test_openai_completions(clients: Clients, warm: float, prompt: str | list[str]) -> None:
    for _ in range(2):  # the prefix is not a chat's: the first request computes it
        answer = clients.openai.completions.create(model=MODEL, prompt=prompt, max_tokens=2)
    assert answer.usage and answer.usage.prompt_tokens_details
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= warm
    assert list(
        clients.openai.completions.create(model=MODEL, prompt=prompt, max_tokens=2, stream=True)
    )


def test_anthropic_messages(clients: Clients, warm: float) -> None:
    system: Any
    for system in ("Be brief.", [{"type": "text", "text": "Be kind."}], anthropic.omit):
        answer = clients.anthropic.messages.create(
            model=MODEL, messages=MESSAGES, system=system, max_tokens=3
        )
        assert (answer.usage.cache_read_input_tokens or 0) >= warm


def test_anthropic_messages_stream(clients: Clients, warm: float) -> None:
    with clients.anthropic.messages.stream(
        model=MODEL, messages=MESSAGES, system="Be brief.", max_tokens=3
    ) as stream:
        assert list(stream.text_stream)
        message = stream.get_final_message()
    assert (message.usage.cache_read_input_tokens or 0) >= warm
    assert message.stop_reason == "max_tokens"


def test_anthropic_counts_the_pack(clients: Clients, warm: float) -> None:
    count = clients.anthropic.messages.count_tokens
    with_pack = count(model=MODEL, messages=MESSAGES).input_tokens
    assert with_pack - count(model="coder", messages=MESSAGES).input_tokens >= warm


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
def test_litellm(clients: Clients, warm: float, provider: str) -> None:
    settings = dict(clients.litellm)
    if provider != "anthropic":
        settings["api_base"] += "/v1"
    asked: Any = {"model": f"{provider}/{MODEL}", "messages": MESSAGES, "max_tokens": 3, **settings}
    answer: Any = litellm.completion(**asked)
    assert answer.usage.prompt_tokens_details.cached_tokens >= warm
    assert list(litellm.completion(**asked, stream=True))


def test_litellm_s_other_apis(clients: Clients, warm: float) -> None:
    settings: Any = dict(clients.litellm)
    settings["api_base"] += "/v1"
    answer: Any = litellm.responses(
        model=f"openai/{MODEL}", input=QUESTION, max_output_tokens=16, **settings
    )
    assert answer.usage.input_tokens_details.cached_tokens >= warm
    text: Any = litellm.text_completion(
        model=f"openai/{MODEL}", prompt=QUESTION, max_tokens=2, **settings
    )
    assert text.usage.prompt_tokens >= warm


def test_a_tool_call_of_a_chat_goes_round(site: Site, clients: Clients, warm: float) -> None:
    asked: Any = {
        "model": MODEL,
        "tools": [LOOK_UP],
        "temperature": 0,
        "max_tokens": 60,
        "logit_bias": without_white_space(fetch_tokenizer(site.host)),
    }
    forced: Any = {"type": "function", "function": {"name": "look_up"}}
    create = clients.openai.chat.completions.create
    whole = create(**asked, messages=MESSAGES, tool_choice=forced).choices[0].message
    assert whole.tool_calls
    (call,) = whole.tool_calls
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"found"}
    pieces = create(**asked, messages=MESSAGES, tool_choice=forced, stream=True)
    calls = [piece.choices[0].delta.tool_calls for piece in pieces if piece.choices]
    arguments = "".join(c[0].function.arguments or "" for c in calls if c and c[0].function)
    assert json.loads(arguments) == json.loads(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "found"}
    history: Any = [*MESSAGES, whole.model_dump(exclude_none=True), result]
    usage = create(**asked, messages=history).usage
    assert usage and usage.prompt_tokens > warm


def test_a_tool_call_of_a_response_goes_round(site: Site, clients: Clients, warm: float) -> None:
    tool: FunctionToolParam = {
        "type": "function",
        "name": "look_up",
        "strict": True,
        "parameters": LOOK_UP_SCHEMA,
    }
    asked: Any = {
        "model": MODEL,
        "tools": [tool],
        "temperature": 0,
        "max_output_tokens": 60,
        "extra_body": {"logit_bias": without_white_space(fetch_tokenizer(site.host))},
    }
    forced: Any = {"type": "function", "name": "look_up"}
    create = clients.openai.responses.create
    first = create(**asked, input=MESSAGES, tool_choice=forced)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert set(json.loads(call.arguments)) == {"found"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "found"}
    history: Any = [*MESSAGES, call.model_dump(exclude_none=True), result]
    usage = create(**asked, input=history).usage
    assert usage and usage.input_tokens > warm


def test_a_tool_call_of_anthropic_s_api_goes_round(clients: Clients, warm: float) -> None:
    tool: Any = {"name": "look_up", "input_schema": LOOK_UP_SCHEMA}
    # In a stream, since arguments that the model fills with white space never end.
    stream = clients.anthropic.messages.create(
        model=MODEL,
        messages=MESSAGES,
        tools=[tool],
        tool_choice={"type": "tool", "name": "look_up"},
        max_tokens=40,
        extra_body={"temperature": 0},
        stream=True,
    )
    blocks = [event.content_block for event in stream if event.type == "content_block_start"]
    (call,) = [block for block in blocks if block.type == "tool_use"]
    assert call.name == "look_up"
    called = {"type": "tool_use", "id": call.id, "name": call.name, "input": {"found": True}}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "found"}
    history: Any = [
        *MESSAGES,
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    answer = clients.anthropic.messages.create(
        model=MODEL, messages=history, tools=[tool], max_tokens=3
    )
    assert (answer.usage.cache_read_input_tokens or 0) >= warm


def test_structured_output_and_several_answers_pass(site: Site, clients: Clients) -> None:
    answer = clients.openai.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=60,
        seed=1,
        n=2,
        logit_bias=without_white_space(fetch_tokenizer(site.host)),
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "found", "schema": LOOK_UP_SCHEMA},
        },
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert set(json.loads(choice.message.content or "")) == {"found"}


def test_embeddings_are_refused_as_vllm_refuses_them(clients: Clients) -> None:
    for model in ("coder", MODEL):
        with pytest.raises(openai.NotFoundError):
            clients.openai.embeddings.create(model=model, input="x")


def test_an_unknown_workspace_is_each_client_s_not_found(clients: Clients) -> None:
    unknown = "coder@nowhere"
    with pytest.raises(openai.NotFoundError, match=WORKSPACE):
        clients.openai.responses.create(model=unknown, input=QUESTION)
    with pytest.raises(anthropic.NotFoundError, match=WORKSPACE):
        clients.anthropic.messages.create(model=unknown, messages=MESSAGES, max_tokens=1)
    settings: Any = clients.litellm
    with pytest.raises(litellm.exceptions.NotFoundError, match=WORKSPACE):
        litellm.completion(model=f"anthropic/{unknown}", messages=MESSAGES, **settings)


def test_what_does_not_fit_is_each_client_s_bad_request(clients: Clients) -> None:
    messages: Any = [{"role": "user", "content": TOO_LONG}]
    words = r"maximum context length is \d+ tokens"
    whole = {"X-Infbox-Pack": "whole"}
    with pytest.raises(openai.BadRequestError, match=words) as said:
        clients.openai.chat.completions.create(model=MODEL, messages=messages, extra_headers=whole)
    body: Any = said.value.body
    assert (body["infbox"]["workspace"], body["infbox"]["pack_tokens"] > 0) == (WORKSPACE, True)
    with pytest.raises(openai.BadRequestError, match=words) as said:
        clients.openai.chat.completions.create(model=MODEL, messages=messages)
    body = said.value.body
    assert body["infbox"]["pack_tokens"] == 0, "all of the pack gave way first"
    with pytest.raises(openai.BadRequestError, match=words):
        clients.openai.responses.create(model=MODEL, input=TOO_LONG)
    with pytest.raises(openai.BadRequestError, match=words):
        clients.openai.completions.create(model=MODEL, prompt=TOO_LONG)
    long = r"prompt is too long: \d+ tokens > \d+ maximum"  # what Claude Code looks for
    with pytest.raises(anthropic.BadRequestError, match=long) as refused:
        clients.anthropic.messages.create(model=MODEL, messages=messages, max_tokens=1)
    assert refused.value.type == "invalid_request_error"
    settings: Any = clients.litellm
    settings = {**settings, "api_base": f"{settings['api_base']}/v1"}
    with pytest.raises(litellm.exceptions.ContextWindowExceededError):
        litellm.completion(model=f"openai/{MODEL}", messages=messages, **settings)


def test_malformed_requests_and_wrong_keys_are_the_clients_own_errors(clients: Clients) -> None:
    wrong: Any = [{"role": 7}]
    with pytest.raises(openai.BadRequestError):
        clients.openai.chat.completions.create(model=MODEL, messages=wrong)
    with pytest.raises(anthropic.BadRequestError):
        clients.anthropic.messages.create(model=MODEL, messages=wrong, max_tokens=1)
    with pytest.raises(anthropic.AuthenticationError):
        clients.anthropic.with_options(api_key="sk-wrong").messages.create(
            model=MODEL, messages=MESSAGES, max_tokens=1
        )


def test_a_pack_cut_to_fit_is_warm(clients: Clients, warm: float) -> None:
    window = next(iter(clients.openai.models.list())).model_extra
    assert window
    room = int(window["max_model_len"]) - int(warm * 0.7)
    raw = clients.openai.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=room,
        extra_body={"infbox": {"pack": "fit"}, "stop": [" ", "e", "a", "\n"]},
    )
    tokens = int(raw.headers["x-infbox-pack-tokens"])
    assert 0 < tokens < warm * 0.7
    assert int(raw.headers["x-infbox-cached-tokens"]) > tokens - 2 * BLOCK


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_a_client_that_leaves_cancels_the_engine_s_work(
    site: Site, clients: Clients, api: str
) -> None:
    # vLLM counts no aborted request, but what runs, and the tokens that were generated.
    generated, left = "vllm:generation_tokens_total", "infbox_gateway_cancelled_total"
    before = site.metric(VLLM_METRICS, generated), site.metric(GATEWAY_METRICS, left)
    stream = long_answer(clients, api)
    events = iter(stream)
    next(events)
    wait_for("the engine at work", lambda: runs(site) == 1 or None, 10)
    stream.close()
    wait_for("the engine giving up", lambda: runs(site) == 0 or None, 10)
    assert site.metric(VLLM_METRICS, generated) - before[0] < LONG / 2
    assert site.metric(GATEWAY_METRICS, left) == before[1] + 1


def long_answer(clients: Clients, api: str) -> Any:
    """Begin an answer that takes long."""
    asked: Any = {"model": MODEL, "stream": True}
    if api == "messages":
        return clients.anthropic.messages.create(**asked, messages=MESSAGES, max_tokens=LONG)
    asked["extra_body"] = {"ignore_eos": True}
    if api == "responses":
        return clients.openai.responses.create(**asked, input=QUESTION, max_output_tokens=LONG)
    return clients.openai.chat.completions.create(**asked, messages=MESSAGES, max_tokens=LONG)


def runs(site: Site) -> float:
    """Return how many requests vLLM is at work on."""
    return site.metric(VLLM_METRICS, "vllm:num_requests_running")


def test_a_pack_can_be_read(clients: Clients) -> None:
    get = clients.openai.get
    path = f"/workspaces/{WORKSPACE}/pack"
    whole = get(path, cast_to=httpx2.Response)
    tag = whole.headers["etag"]
    part = get(path, cast_to=httpx2.Response, options={"headers": {"Range": "bytes=0-99"}})
    assert (part.status_code, part.content) == (206, whole.content[:100])
    with pytest.raises(openai.APIStatusError) as same:
        get(path, cast_to=httpx2.Response, options={"headers": {"If-None-Match": tag}})
    assert same.value.status_code == 304


def test_gateway_and_vllm_say_the_same_of_any_request(site: Site) -> None:
    """Requests that schemathesis makes from vLLM's own description, none of them with an `@`."""
    statuses: set[int] = set()
    with forwarded(site.host, 8000) as engine, forwarded(site.host, 8010) as gateway:

        def compare(_: str, case: "Case[Any]") -> None:
            expected = case.call(base_url=engine, timeout=60).status_code
            answer = case.call(base_url=gateway, headers={"X-Infbox-User": "team"}, timeout=60)
            assert answer.status_code == expected
            statuses.add(expected)

        each_request(description(engine), 20, compare)
    assert statuses >= {200, 400, 404}
