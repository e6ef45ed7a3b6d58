"""Private workspaces and restricted users on a deployed host, asked through its real edge.

`pytest -m lab tests/system/test_private_workspaces.py` runs it. What the gateway and two replicas
do is proven in far more cases by watcher/tests/gateway/test_access.py and
tests/caddy/test_replicas.py, with a stub of the engine.
"""

import base64
import contextlib
import functools
import http.client
import json
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from access_paths import ASKED, EMBEDDINGS, LISTS, VARIANTS, Asked, post
from fake_apis import CHAT, MESSAGES, RESPONSES
from gateway_stack import USER, Answer

from lab.deployment import AUTHORITY, WORKSPACES, inventory, play, ssh, wait_for
from lab.settings import STATE
from tests.system.conftest import HOST, Site

pytestmark = [pytest.mark.lab, pytest.mark.long]

NAMES = ("mango", "quartz")
ABSENT = "walrus"
SETTINGS = {
    "infbox_workspaces_private": True,
    "infbox_teams": {"fruit": {"workspaces": ["man*"]}},
    "infbox_users": [
        {"name": "team", "workspaces": ["*"]},
        {"name": "bob", "teams": ["fruit"]},
        "guest",
    ],
}
SEEN = {"team": {*NAMES}, "bob": {"mango"}, "guest": set[str]()}
KEYS = "systemctl kill --signal={} infbox-keys"
NOT_LET_IN = (401, 503)
AT_MOST = {RESPONSES: "max_output_tokens", "": "max_tokens"}
# One question by the model's name and one by the header stand for all APIs.
FEW = [
    each
    for asked in ASKED.values()
    for each in asked
    if each.method != "POST" or each.target in (CHAT, "/mcp", "/mcp/NAME")
]


def mark(name: str) -> str:
    """What only the tree of a workspace says."""
    return f"{name.upper()}_0X5EC2E7"


@dataclass(frozen=True)
class Edge:
    """The deployed host as clients see it.

    Attributes:
        site: the host.
        keys: of the users, by name.
        trust: its certificate's authority.
    """

    site: Site
    keys: dict[str, str]
    trust: ssl.SSLContext

    def ask(self, asked: Asked, key: str, *more: tuple[str, str]) -> Answer:
        """Send a request with a key."""
        client = http.client.HTTPSConnection(
            self.site.host.address, context=self.trust, timeout=600
        )
        with contextlib.closing(client):
            client.putrequest(asked.method, asked.target)
            headers = {"Authorization": f"Bearer {key}", **dict([*asked.headers, *more])}
            if asked.body:
                headers["Content-Length"] = str(len(asked.body.encode()))
                headers.setdefault("Content-Type", "application/json")
            for name, value in headers.items():
                client.putheader(name, value.encode())
            client.endheaders(asked.body.encode() or None)
            answer = client.getresponse()
            follows = asked.target == "/status/events" and answer.status == 200
            body = b"".join(answer.readline() for _ in range(4)) if follows else answer.read()
            return Answer(answer.status, answer.headers, body)

    def as_user(self, user: str, asked: Asked) -> Answer:
        """Send a request as a user."""
        return self.ask(bounded(asked), self.keys[user])

    def has_pack(self, name: str) -> bool | None:
        """Say whether a workspace has a pack; None while it has none."""
        pack = Asked("GET", f"/v1/workspaces/{name}/pack")
        return self.as_user("team", pack).status == 200 or None

    def lists(self, user: str, key: str = "") -> int:
        """Return how a user's list of models is answered."""
        return self.ask(Asked("GET", "/v1/models"), key or self.keys[user]).status


def bounded(asked: Asked) -> Asked:
    """Return a question whose answer has a token: the engine has a CPU."""
    if asked.method != "POST" or not asked.body or asked.target.startswith("/mcp"):
        return asked
    body: dict[str, Any] = json.loads(asked.body)
    if "count_tokens" not in asked.target and asked.target != EMBEDDINGS:
        body[AT_MOST.get(asked.target, AT_MOST[""])] = 1
    return Asked(asked.method, asked.target, asked.headers, json.dumps(body))


@pytest.fixture(scope="module")
def edge(site: Site) -> Iterator[Edge]:
    """Give the deployed host two private workspaces; afterwards what it had."""
    before = (site.inventory / "hosts.yml").read_text()
    trees = {name: STATE / "workspaces" / f"{HOST}-{name}" for name in NAMES}
    for name, tree in trees.items():
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "main.py").write_text(f"{mark(name)} = 1\n\n\ndef run() -> int:\n    return 2\n")
    told = [{"name": name, "path": f"{WORKSPACES}/{tree.name}"} for name, tree in trees.items()]
    try:
        folder = inventory(site.host, {"infbox_workspaces": told, **SETTINGS})
        play(["site.yml", "-i", folder], "system-private")
        keys = {user: ssh(site.host, f"cat /etc/infbox/secrets/api-keys/{user}") for user in SEEN}
        authority = ssh(site.host, f"cat {AUTHORITY}")
        edge = Edge(site, keys, ssl.create_default_context(cadata=authority))
        for name in NAMES:
            wait_for(f"the pack of {name}", functools.partial(edge.has_pack, name), 600)
        yield edge
    finally:
        (site.inventory / "hosts.yml").write_text(before)
        play(["site.yml", "-i", site.inventory], "system-private-no-more")
        for tree in trees.values():
            shutil.rmtree(tree)


@pytest.mark.parametrize("user", SEEN)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_may_not_use_is_like_what_is_not_there(
    edge: Edge, user: str, name: str
) -> None:
    for asked in (each for several in ASKED.values() for each in several):
        answer = edge.as_user(user, asked.about(name))
        if name in SEEN[user]:
            # The model makes no embeddings, which vLLM says; the edge lets lists be read by GET.
            is_refused = asked.target == EMBEDDINGS or asked.method == "HEAD"
            assert answer.status == 200 or is_refused, (asked, answer)
            continue
        missing = edge.as_user(user, asked.about(ABSENT))
        assert answer.status == missing.status == 404, (asked, answer)
        assert answer.body.replace(name.encode(), b"") == missing.body.replace(ABSENT.encode(), b"")
        assert sorted(answer.headers) == sorted(missing.headers)
        assert mark(name) not in answer.body.decode()


@pytest.mark.parametrize("user", SEEN)
def test_no_list_has_a_name_or_a_text_of_a_workspace_that_is_not_the_users(
    edge: Edge, user: str
) -> None:
    models = edge.as_user(user, Asked("GET", "/v1/models")).json["data"]
    assert {each["id"] for each in models} == {"coder", *(f"coder@{one}" for one in SEEN[user])}
    for asked in (each.about(ABSENT) for several in LISTS.values() for each in several):
        answer = edge.as_user(user, asked)
        assert answer.status in (200, 404), (asked, answer)
        said = answer.body.decode() + str(answer.headers)
        for hidden in {*NAMES} - SEEN[user]:
            assert hidden not in said, (asked, said)
            assert mark(hidden) not in said


@pytest.mark.parametrize("name", VARIANTS)
def test_no_way_to_write_a_name_shows_another_ones_workspace(edge: Edge, name: str) -> None:
    for asked in FEW:
        with contextlib.suppress(ValueError):  # of the client's: it sends no such header
            answer = edge.as_user("bob", asked.about(name))
            assert answer.status in (400, 404), (asked, answer)
            assert mark("quartz") not in answer.body.decode()


@pytest.mark.parametrize(
    "forged",
    [
        ("X-Infbox-Workspaces", "*"),
        ("x-infbox-workspaces", "quartz"),
        ("Connection", "close, X-Infbox-Workspaces"),
        ("X-Infbox-User", "team"),
        ("X-Infbox-Routed", "1"),
    ],
)
def test_no_header_of_a_client_gives_it_a_workspace(edge: Edge, forged: tuple[str, str]) -> None:
    for asked in FEW:
        answer = edge.ask(bounded(asked.about("quartz")), edge.keys["bob"], forged)
        assert answer.status == 404, (asked, answer)
        assert mark("quartz") not in answer.body.decode()


def test_a_login_on_the_page_shows_the_users_own_workspaces(edge: Edge) -> None:
    login = base64.b64encode(f"bob:{edge.keys['bob']}".encode()).decode()
    page = Asked("GET", "/status", (("Authorization", f"Basic {login}"),))
    with contextlib.closing(
        http.client.HTTPSConnection(edge.site.host.address, context=edge.trust, timeout=60)
    ) as client:
        client.request(page.method, page.target, headers=dict(page.headers))
        answer = client.getresponse()
        said = answer.read().decode()
    assert answer.status == 200
    assert "mango" in said
    assert "quartz" not in said


def test_a_frozen_key_service_lets_nobody_in_and_nobody_is_out_afterwards(edge: Edge) -> None:
    wrong = "sk-infbox-" + "0" * 64
    edge.site.ssh(KEYS.format("STOP"))
    try:
        answer = edge.ask(post(MESSAGES, "coder", messages=[USER], max_tokens=1), edge.keys["team"])
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert answer.json["type"] == "error"
        # By now its watchdog may have started it again.
        assert edge.lists("", wrong) in NOT_LET_IN
    finally:
        edge.site.ssh(KEYS.format("CONT"))
    wait_for("the key service", lambda: edge.lists("team") == 200 or None, 60)
    assert edge.lists("", wrong) == 401


def test_a_killed_key_service_lets_nobody_in_and_is_back_by_itself(edge: Edge) -> None:
    wrong = "sk-infbox-" + "0" * 64
    edge.site.ssh(KEYS.format("KILL"))

    def is_back() -> bool | None:
        assert edge.lists("", wrong) in NOT_LET_IN
        status = edge.lists("team")
        assert status in (200, 503)
        return status == 200 or None

    wait_for("the key service", is_back, 120)


def test_a_slow_key_service_puts_nobody_out(edge: Edge) -> None:
    slow = f"nohup sh -c '{KEYS.format('STOP')}; sleep 1; {KEYS.format('CONT')}' > /dev/null 2>&1 &"
    edge.site.ssh(slow)
    statuses = {edge.lists("team") for _ in range(20)}
    assert statuses == {200}
    assert edge.lists("", "sk-infbox-" + "0" * 64) == 401


def test_without_the_gateway_nobody_is_shown_names(edge: Edge) -> None:
    edge.site.ssh("systemctl stop infbox-gateway")
    try:
        for asked in (Asked("GET", "/v1/models"), post(CHAT, "coder", messages=[USER])):
            answer = edge.as_user("bob", asked)
            assert answer.status == 503, answer
            assert answer.headers["retry-after"]
            assert "quartz" not in answer.body.decode()
    finally:
        edge.site.ssh("systemctl start infbox-gateway")
    wait_for("the gateway", lambda: edge.lists("bob") == 200 or None, 120)


def test_a_key_is_made_and_disabled_by_the_playbook_and_the_edge_knows_at_once(edge: Edge) -> None:
    keys: list[str | Path] = [
        "playbooks/keys.yml",
        "-i",
        edge.site.inventory,
        "-e",
        "user=bob/laptop",
    ]
    play([*keys, "-e", "action=add"], "system-private-keys")
    key = ssh(edge.site.host, "cat /etc/infbox/secrets/api-keys/_labelled/bob@laptop")
    assert edge.lists("", key) == 200
    said = play([*keys, "-e", "action=disable"], "system-private-keys")
    assert key not in said
    assert edge.lists("", key) == 401
    assert edge.lists("bob") == 200


def test_another_run_changes_nothing(edge: Edge) -> None:
    said = play(["site.yml", "-i", edge.site.inventory], "system-private-again")
    assert "changed=0 " in said, said[-3000:]
