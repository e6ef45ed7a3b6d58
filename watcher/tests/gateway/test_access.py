"""Who may use which workspace: users times workspaces times every path that takes one."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import infbox
from access_paths import (
    ASKED,
    BY_HEADER,
    EMBEDDINGS,
    EVERY,
    LISTS,
    MCP,
    QUESTIONS,
    TOOLS,
    VARIANTS,
    Asked,
    post,
)
from fake_apis import CHAT, COUNT, MESSAGES
from fake_engine import FakeEngine
from gateway_stack import SECTION, USER, Answer, Stack, publish
from infbox import grants
from infbox.gateway.app import Gateway
from infbox.status.sampler import shown
from serving import serving, settings_for

BASES = {"lilac-ann": "lilac"}
WORKSPACES = ("lilac", "lilac-ann", "mango", "quartz")
ABSENT = "walrus"  # as long as quartz

USERS = {
    "ann": ("lilac-ann",),
    "team": ("lil*",),
    "bob": ("mango",),
    "guest": (),
    "root": ("*",),
}
SEEN = {
    "ann": {"lilac", "lilac-ann"},
    "team": {"lilac", "lilac-ann"},
    "bob": {"mango"},
    "guest": set[str](),
    "root": set(WORKSPACES),
}

# Paths of the gateway, as its routes have them, that show nothing of a workspace to anybody.
OPEN = {
    *("/health", "/ready", "/metrics"),
    *("/", "/status/page.css", "/status/page.js", "/status/ask.js", "/status/usage.js"),
    "/status/icon.svg",
}


def mark(name: str) -> str:
    """What only the pack of a workspace says."""
    return f"{name.upper()}-0x5ec2e7"


class Site:
    """A gateway, in front of an engine that lists the names of all workspaces."""

    def __init__(self, gateway: Gateway, stack: Stack) -> None:
        self.gateway = gateway
        self.stack = stack

    def ask(self, asked: Asked, grant: str | None, *more: tuple[str, str]) -> Answer:
        """Send a request as Caddy does for a user of this grant."""
        with contextlib.closing(self.stack.connect()) as connection:
            connection.putrequest(asked.method, asked.target)
            told = [] if grant is None else [("X-Infbox-Workspaces", grant)]
            length = [("Content-Length", str(len(asked.body.encode())))] if asked.body else []
            user = ("X-Infbox-User", "somebody")
            for name, value in [*asked.headers, user, *told, *more, *length]:
                connection.putheader(name, value.encode())
            connection.endheaders(asked.body.encode() or None)
            answer = connection.getresponse()
            follows = asked.target == "/status/events" and answer.status == 200
            body = b"".join(answer.readline() for _ in range(4)) if follows else answer.read()
            return Answer(answer.status, answer.headers, body)

    def as_user(self, user: str, asked: Asked) -> Answer:
        return self.ask(asked, grants.to_header(USERS[user]))

    def sent(self) -> str:
        """What went to the engine since this was asked last."""
        sent = "".join(seen.target + seen.body.decode() for seen in self.stack.engine.seen)
        self.stack.engine.seen.clear()
        return sent


@contextlib.contextmanager
def made(folder: Path, *, is_restricted: bool = True) -> Iterator[tuple[Gateway, FakeEngine]]:
    """A gateway that does not serve yet, and the engine that it is for."""
    for name in WORKSPACES:
        texts = mark(BASES.get(name, name)), mark(name)
        publish(folder, "\n".join(texts) + "\n" + SECTION * 4, workspace=name)
    served = ("coder", *(f"coder@{name}" for name in WORKSPACES))
    with FakeEngine(served=served).running() as engine:
        config = settings_for(folder, engine.url, **dict.fromkeys(WORKSPACES, (folder, 1000)))
        workspaces = [each._replace(base=BASES.get(each.name)) for each in config.workspaces]
        settings = config.gateway._replace(requires_user=True, restricts_workspaces=is_restricted)
        yield Gateway(config._replace(workspaces=tuple(workspaces), gateway=settings)), engine


@contextlib.contextmanager
def running(folder: Path, *, is_restricted: bool = True) -> Iterator[Site]:
    with (
        made(folder, is_restricted=is_restricted) as (gateway, engine),
        serving(gateway.app) as url,
    ):
        yield Site(gateway, Stack(engine, url))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("access")) as running_site:
        yield running_site


def test_every_route_of_the_gateway_is_asked_here(site: Site) -> None:
    paths = {route.path for route in site.gateway.app.routes if isinstance(route, Route | Mount)}
    assert paths == OPEN | ASKED.keys() | LISTS.keys()
    assert all(isinstance(route, Route | Mount) for route in site.gateway.app.routes)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WORKSPACES)
def test_what_a_user_may_not_use_is_like_what_is_not_there(
    site: Site, user: str, name: str
) -> None:
    for asked in (each for several in ASKED.values() for each in several):
        site.sent()
        answer = site.as_user(user, asked.about(name))
        if name in SEEN[user]:
            assert answer.status == 200, (asked, answer)
            continue
        assert site.sent().removeprefix("/v1/models") == "", "it went to the engine"
        missing = site.as_user(user, asked.about(ABSENT))
        assert answer.status == missing.status == 404, (asked, answer)
        assert answer.body.replace(name.encode(), b"") == missing.body.replace(ABSENT.encode(), b"")
        assert sorted(answer.headers) == sorted(missing.headers)


async def steps(app: Starlette, asked: Asked, grant: str) -> list[tuple[str, int]]:
    """Return the functions of infbox that are called to refuse a request, in order."""
    root, called, sent = str(Path(infbox.__file__).parent), [], []
    own = asyncio.current_task()
    incoming = [{"type": "http.request", "body": asked.body.encode(), "more_body": False}]
    told = [*asked.headers, ("X-Infbox-User", "somebody"), ("X-Infbox-Workspaces", grant)]
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(asked.target),
        "raw_path": asked.target.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in told],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def receive() -> Any:
        return incoming.pop() if incoming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    def note(frame: FrameType, event: str, _argument: object) -> None:
        is_ours = event == "call" and frame.f_code.co_filename.startswith(root)
        if is_ours and asyncio.current_task() is own:
            called.append((frame.f_code.co_name, frame.f_code.co_firstlineno))

    sys.setprofile(note)
    try:
        await app(scope, receive, send)
    finally:
        sys.setprofile(None)
    assert sent[0]["status"] == 404
    return called


def test_what_a_user_may_not_use_takes_the_steps_of_what_is_not_there(tmp_path: Path) -> None:
    """So that no time tells the two apart."""

    async def compare(app: Starlette) -> None:
        async with app.router.lifespan_context(app):
            for asked in (each for several in ASKED.values() for each in several):
                first, absent, hidden, again = [
                    await steps(app, asked.about(name), grants.to_header(USERS["bob"]))
                    for name in (ABSENT, ABSENT, "quartz", ABSENT)
                ]
                assert first
                assert absent == hidden == again, asked

    with made(tmp_path) as (gateway, _):
        asyncio.run(compare(gateway.app))


@pytest.mark.parametrize("user", USERS)
def test_lists_have_what_a_user_may_use_and_no_more(site: Site, user: str) -> None:
    models = site.as_user(user, Asked("GET", "/v1/models")).json["data"]
    listed = {each["id"] for each in models}
    assert listed == {"coder", *(f"coder@{name}" for name in SEEN[user])}
    workspaces = site.as_user(user, Asked("GET", "/v1/workspaces")).json["data"]
    assert {each["name"] for each in workspaces} == SEEN[user]
    for target in ("/status", "/status/events"):
        answer = site.as_user(user, Asked("GET", target))
        shown = set(re.findall(rb'"name": ?"([a-z-]+)", ?"state"', answer.body))
        assert {name.decode() for name in shown} == SEEN[user], answer.body


def test_whoever_sees_one_workspace_alone_gets_its_tools_without_naming_it(site: Site) -> None:
    asked = Asked("POST", "/mcp", MCP, TOOLS)
    assert site.as_user("bob", asked).status == 200
    several = site.as_user("team", asked)
    assert several.status == 400
    assert b"There are: lilac, lilac-ann." in several.body
    assert b"There are: none." in site.as_user("guest", asked).body


def test_health_of_a_workspace_of_others_is_not_shown(site: Site) -> None:
    ill = {"state": "cold", "unhealthy_since": None}
    well = {"state": "warm", "unhealthy_since": None}
    status = {"services": [], "workspaces": [{"name": "mango", **well}, {"name": "lilac", **ill}]}
    assert shown({**status, "healthy": False}, {"mango"})["healthy"] is True
    assert shown({**status, "healthy": False}, {"lilac"})["healthy"] is False


@pytest.mark.parametrize("name", VARIANTS)
def test_no_way_to_write_a_name_shows_another_ones_workspace(site: Site, name: str) -> None:
    for asked in (each for several in ASKED.values() for each in several):
        site.sent()
        with contextlib.suppress(ValueError):  # of the client's: it sends no such header
            answer = site.as_user("bob", asked.about(name))
            # What ends like a name of his own goes to vLLM, which serves no such model.
            assert answer.status in (400, 404) or name == "quartz@mango", (asked, answer)
            assert mark("quartz") not in answer.body.decode()
        assert mark("quartz") not in site.sent()


@pytest.mark.parametrize("name", ["MANGO", "Mango", "mang\uff4f", "mango.", "mango/"])
def test_a_name_of_ones_own_is_written_as_it_is(site: Site, name: str) -> None:
    for asked in (each for several in ASKED.values() for each in several):
        assert site.as_user("bob", asked.about(name)).status == 404, asked
    assert mark("mango") not in site.sent()


def test_a_grant_tells_upper_from_lower_case_and_a_dot_from_any_character() -> None:
    assert not grants.covers(("Mango", "MAN*"), "mango")
    assert not grants.covers(("m.ngo",), "mango")
    assert grants.covers(("m*o",), "mango")
    assert grants.covers(("mango*",), "mango")
    assert not grants.covers(("mango*",), "a-mango")
    for patterns in ((), ("a",), ("a*", "b"), ("*",)):
        assert grants.from_header(grants.to_header(patterns)) == patterns
    assert grants.to_header(("a", "*")) == "*"


def test_several_names_in_one_request_do_not_pass_one_of_others(site: Site) -> None:
    for body in (
        '{"model": "coder@mango", "messages": [], "model": "coder@quartz"}',
        '{"model": "coder@quartz", "messages": [], "model": "coder@mango@quartz"}',
        '{"model": "coder\\u0040quartz", "messages": []}',
    ):
        assert site.as_user("bob", Asked("POST", CHAT, (), body)).status == 404
    both = post(CHAT, "coder@mango", ("X-Infbox-Workspace", "quartz"), messages=[USER])
    assert site.as_user("bob", both).status == 400
    twice = post(
        CHAT, "coder", ("X-Infbox-Workspace", "mango"), ("X-Infbox-Workspace", "quartz"),
        messages=[USER],
    )  # fmt: skip
    assert site.as_user("bob", twice).status == 400
    tools = Asked("POST", "/mcp/mango", (*MCP, ("X-Infbox-Workspace", "quartz")), TOOLS)
    assert site.as_user("bob", tools).status == 400
    assert mark("quartz") not in site.sent()


MALFORMED = [
    *("", " ", ",", "lilac,", ",lilac", "lilac mango", "lilac, mango", "-,lilac", "--", "/", "[a]"),
    *("lilac\u00e9", "*" * 9, "?", "a" * 200, "," * 300, ",".join(["a"] * 300), "*;"),
]


@pytest.mark.parametrize("grant", MALFORMED)
def test_a_grant_that_is_malformed_lets_nobody_in(site: Site, grant: str) -> None:
    for asked in EVERY:
        site.sent()
        answer = site.ask(asked.about("lilac"), grant)
        assert answer.status == 401, (asked, answer)
        assert not site.sent()


def test_a_grant_that_is_absent_or_told_twice_lets_nobody_in(site: Site) -> None:
    for asked in EVERY:
        site.sent()
        assert site.ask(asked.about("lilac"), None).status == 401, asked
        twice = site.ask(asked.about("lilac"), "*", ("X-Infbox-Workspaces", "lilac"))
        assert twice.status == 401, asked
        assert not site.sent()
    told = site.ask(post(MESSAGES, "coder", messages=[USER], max_tokens=5), None).json
    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")


def test_paths_that_nobody_thought_of_are_for_those_who_may_use_all(site: Site) -> None:
    for target in ("/tokenize", "/v1/rerank", "//v1/models", "/v1/load_lora_adapter"):
        asked = post(target, "coder@quartz", prompt="x")
        assert site.as_user("team", asked).status == 404, target
        assert not site.sent()
        assert site.as_user("root", asked).status != 404, target
        site.sent()


def salts(site: Site) -> set[object]:
    """The salts of what went to the engine since this was asked last."""
    found = {json.loads(seen.body).get("cache_salt") for seen in site.stack.engine.seen}
    site.stack.engine.seen.clear()
    return found


def test_each_workspace_has_a_salt_of_its_own_and_an_overlay_its_bases(site: Site) -> None:
    site.sent()
    found = {}
    for name in WORKSPACES:
        for path, body in QUESTIONS.items():
            if path not in (COUNT, EMBEDDINGS):
                site.as_user("root", post(path, "coder", BY_HEADER, **body).about(name))
        (found[name],) = salts(site)
        assert re.fullmatch("[0-9a-f]{32}", str(found[name]))
    assert found["lilac"] == found["lilac-ann"]
    assert len(set(found.values())) == 3
    own = post(CHAT, "coder@mango", messages=[USER], cache_salt=found["quartz"])
    site.as_user("root", own)
    assert not salts(site) & {*found.values(), None}, "a client can say none of them"
    site.as_user("root", post(CHAT, "coder", messages=[USER]))
    site.as_user("root", post(COUNT, "coder@mango", messages=[USER]))
    assert salts(site) == {None}


def test_without_restrictions_a_grant_may_be_absent_but_holds_where_it_is_told(
    tmp_path: Path,
) -> None:
    with running(tmp_path, is_restricted=False) as site:
        asked = Asked("GET", "/v1/workspaces/quartz/pack")
        assert site.ask(asked, None).status == site.ask(asked, "").status == 200
        assert site.ask(asked, "mango").status == 404
        assert site.ask(asked, "mango,").status == 401
        site.sent()
        site.ask(post(CHAT, "coder@mango", messages=[USER]), None)
        assert salts(site) == {None}


NAMES = st.sampled_from([*WORKSPACES, ABSENT, *VARIANTS])
BOOL = st.booleans()
GRANTS = st.lists(st.sampled_from([*WORKSPACES, "lil*", "*-ann", "*a*", ABSENT]), max_size=3)


@settings(max_examples=300)
@given(patterns=GRANTS, asked=st.sampled_from(EVERY), names=st.tuples(NAMES, NAMES), also=BOOL)
def test_no_answer_has_a_name_or_a_text_of_a_workspace_that_is_not_the_users(
    site: Site, patterns: list[str], asked: Asked, names: tuple[str, str], also: bool
) -> None:
    seen = {each for each in WORKSPACES if grants.covers(patterns, each)}
    seen |= {BASES[each] for each in seen & BASES.keys()}
    request, more = asked.about(names[0]), [("X-Infbox-Workspace", names[1])] * also
    site.sent()
    answer = site.ask(request, grants.to_header(patterns), *more)
    said, sent = answer.body.decode() + str(answer.headers), site.sent()
    for hidden in set(WORKSPACES) - seen:
        assert mark(hidden) not in said + sent, request
        if not any(hidden in text for text in names):  # what was sent may be repeated
            assert hidden not in said, (request, said)


def test_only_what_makes_the_gateway_reaches_all_workspaces() -> None:
    """No route and nothing that reads a request holds the unrestricted list."""
    root = Path(infbox.__file__).parent
    found: dict[str, set[str]] = {}
    for file in (root / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = {getattr(node, "id", ""), getattr(node, "attr", "")}
            if isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names}
            for name in names & {"Workspaces", "PackFile", "unrestricted", "all_packs"}:
                found.setdefault(name, set()).add(file.relative_to(root / "gateway").as_posix())
    assert found == {
        "Workspaces": {"app.py", "forwarder.py"},
        "PackFile": {"workspaces.py"},
        "unrestricted": {"app.py", "workspaces.py"},
        "all_packs": {"app.py"},
    }
