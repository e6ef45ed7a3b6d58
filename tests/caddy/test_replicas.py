"""Three hosts behind one endpoint: real Caddys with the role's own Caddyfile, and real gateways.

In place of vLLM each has a stub.

INFBOX_TEST_CADDY=PROGRAM runs them with another Caddy than the lab's.
"""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fake_engine import FakeEngine
from gateway_stack import BODIES, USER, publish
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from infbox.replicas.placement import route
from serving import free_port

from lab import engine
from lab.settings import IMAGES_FILE, ROOT

pytestmark = pytest.mark.lab

PROGRAMS = Path(sys.executable).parent
OTHER_CADDY = os.environ.get("INFBOX_TEST_CADDY", "")
WORKSPACES = [f"tree{number}" for number in range(30)]  # so many that each host has some
CHAT = "/v1/chat/completions"
QUESTIONS: dict[str, dict[str, Any]] = {
    **BODIES,
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/embeddings": {"input": "Why?"},
}
MOST = 4
PORTS = ("http", "https", "replicas", "balancer", "gateway")


class Process:
    """A program that can be started again."""

    def __init__(self, *command: object, **environment: str) -> None:
        self._command = [str(part) for part in command]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment)

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class Container:
    """The lab's Caddy, which can be started again."""

    def __init__(self, name: str, config: Path, data: Path) -> None:
        self._name = name
        self._mounts = ["--volume", f"{config}:/etc/caddy:ro", "--volume", f"{data}:/data"]

    def start(self) -> None:
        image = json.loads(IMAGES_FILE.read_text())["caddy"]
        self.kill()
        docker(
            "run", "--detach", "--name", self._name, "--network", "host", "--user", "0",
            "--env", "XDG_DATA_HOME=/data", *self._mounts, f"infbox-lab/caddy:{image['tag']}",
            "caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile",
        )  # fmt: skip

    def kill(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True, check=False)


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


@dataclass
class Host:
    """One of the hosts.

    Attributes:
        name: of it.
        ports: by what they are for.
        folder: of what it runs by.
        engine: the stub of its vLLM.
        parts: its gateway and its Caddy.
    """

    name: str
    ports: dict[str, int]
    folder: Path
    engine: FakeEngine
    parts: list[Process | Container] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.ports['https']}"

    @property
    def inner(self) -> str:
        return f"https://localhost:{self.ports['replicas']}"

    def start(self) -> None:
        for part in self.parts:
            part.start()

    def wait(self) -> None:
        wait_for(lambda: httpx2.get(f"{self.url}/health", verify=False).status_code == 200)

    def lose(self) -> None:
        for part in self.parts:
            part.kill()


@dataclass
class Fleet:
    """The hosts.

    Attributes:
        hosts: all of them.
        key: of the user alice.
        other_key: of the user bob, who may use the first of the workspaces.
    """

    hosts: list[Host]
    key: str
    other_key: str

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def ask(
        self, workspace: str = "", at: int = 0, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        """Ask one of them as a client of alice does."""
        model = f"coder@{workspace}" if workspace else "coder"
        body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], **more}
        bearer = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        url = self.hosts[at].url + CHAT
        return httpx2.post(url, json=body, headers=bearer, verify=False, timeout=60)

    def where(self, workspace: str, at: int = 0) -> str:
        """Ask, and return who answered."""
        answer = self.ask(workspace, at)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-infbox-host"]

    def homes(self, at: int = 0) -> dict[str, str]:
        """Return who answers for each workspace."""
        return {workspace: self.where(workspace, at) for workspace in WORKSPACES}

    def home(self, workspace: str, at: int) -> str:
        """Return who would answer, as a watcher finds out."""
        balancer = f"http://127.0.0.1:{self.hosts[at].ports['balancer']}/ready"
        answer = httpx2.get(balancer, headers={"X-Infbox-Route": route(workspace)})
        assert answer.status_code == 200
        return answer.headers["x-infbox-host"]

    def metric(self, name: str) -> Counter[str]:
        """Return the samples of a gateways' metric by their labels, summed over all hosts."""
        found: Counter[str] = Counter()
        for host in self.hosts:
            page = httpx2.get(f"http://127.0.0.1:{host.ports['gateway']}/metrics").text
            for labels, value in re.findall(rf"^{name}_total(\S*) (\S+)$", page, re.MULTILINE):
                found[labels] += int(float(value))
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if not OTHER_CADDY:
        engine.ensure()
    folder = tmp_path_factory.mktemp("replicas")
    keys = free_port()
    with contextlib.ExitStack() as stack:
        hosts = []
        for number in range(3):
            name = f"gpu{number + 1}"
            ports = {port: free_port() for port in PORTS}
            hosts.append(
                Host(name, ports, folder / name, stack.enter_context(FakeEngine().running()))
            )
        key, other_key = make_keys(folder)
        authority = Process(PROGRAMS / "infbox-keys", "--digests", folder / "users.json",
                            "serve", "--listen", f"127.0.0.1:{keys}")  # fmt: skip
        authority.start()
        stack.callback(authority.kill)
        for host in hosts:
            render(host, hosts, keys)
            host.parts = [gateway(host), caddy(host)]
            stack.callback(host.lose)
            host.start()
        for host in hosts:
            host.wait()
        yield Fleet(hosts, key, other_key)


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """The hosts, all well, and as if nobody had asked."""
    for host in running.hosts:
        host.engine.delay = 0.0
        host.engine.ending = False
        host.engine.seen.clear()
        host.engine.most_under_way = 0
    wait_for(lambda: set(running.homes().values()) == {host.name for host in running.hosts})
    wait_for(lambda: running.homes() == running.homes(at=1) == running.homes(at=2))
    return running


def make_keys(folder: Path) -> tuple[str, str]:
    (folder / "keys").mkdir()
    users = {"alice": Limits(), "bob": Limits(workspaces=(WORKSPACES[0],))}
    Keyring(folder / "keys", folder / "users.json").apply(users)
    alice, bob = ((folder / "keys" / user).read_text().strip() for user in users)
    return alice, bob


def gateway(host: Host) -> Process:
    settings = {
        "state_dir": str(host.folder / "state"),
        "engine": {"url": host.engine.url, "model": "coder", "max_model_len": 100_000},
        "gateway": {
            "listen": f"127.0.0.1:{host.ports['gateway']}",
            "request_queue_timeout_seconds": 20,
            "requires_user": True,
            "restricts_workspaces": True,
        },
        "workspaces": [{"name": n, "path": "/srv", "budget": 1000} for n in WORKSPACES],
        "replicas": {"balancer": f"http://127.0.0.1:{host.ports['balancer']}", "host": host.name},
    }
    for workspace in WORKSPACES:
        publish(host.folder, f"{host.name} has {workspace}", sections=[], workspace=workspace)
    (host.folder / "watcher.yml").write_text(yaml.safe_dump(settings))
    return Process(PROGRAMS / "infbox-gateway", "run", "--config", host.folder / "watcher.yml")


def render(host: Host, hosts: list[Host], keys: int) -> None:
    """Have the role render a host's Caddyfile; the first one makes the certificate of all."""
    if host is not hosts[0]:
        made = hosts[0].folder / "data/replicas"
        shutil.copytree(made, host.folder / "data/replicas")
    variables: dict[str, Any] = {
        "caddy_image": "caddy", "caddy_staging_dir": str(host.folder / "staging"),
        "caddy_data_dir": str(host.folder / "data"), "caddy_site_addresses": ["localhost"],
        "caddy_http_port": host.ports["http"], "caddy_https_port": host.ports["https"],
        "caddy_key_service": f"127.0.0.1:{keys}",
        "caddy_upstreams": [f"127.0.0.1:{host.ports['gateway']}"],
        "caddy_replicas": [f"127.0.0.1:{other.ports['replicas']}" for other in hosts],
        "caddy_replicas_port": host.ports["replicas"],
        "caddy_replicas_listen": f"127.0.0.1:{host.ports['balancer']}",
        "caddy_replicas_upstream": f"127.0.0.1:{host.ports['gateway']}",
        "caddy_replicas_requests": MOST,
        "caddy_page_upstream": f"127.0.0.1:{host.ports['gateway']}",
        "ansible_python_interpreter": sys.executable,
    }  # fmt: skip
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["caddy"]}
    host.folder.mkdir(exist_ok=True)
    file = host.folder / "play.yml"
    file.write_text(json.dumps([{**play, "vars": variables}]))
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(file)]
    own = {"ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "HOME": str(host.folder),
           "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, **own}, stdout=subprocess.DEVNULL)


def caddy(host: Host) -> Process | Container:
    config, data = host.folder / "staging/caddy", host.folder / "data"
    if not OTHER_CADDY:
        return Container(f"infbox-test-replica-{host.name}", config, data)
    file = host.folder / "Caddyfile"
    file.write_text((config / "Caddyfile").read_text().replace("/data/", f"{data}/"))
    return Process(OTHER_CADDY, "run", "--config", file, "--adapter", "caddyfile",
                   XDG_DATA_HOME=str(data), HOME=str(host.folder))  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx2.HTTPError, AssertionError):
            if condition():
                return
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.1)


def test_a_workspace_is_always_answered_by_the_same_host_whoever_is_asked(fleet: Fleet) -> None:
    homes = fleet.homes()
    for at in range(3):
        assert fleet.homes(at) == homes
    assert set(homes.values()) == {"gpu1", "gpu2", "gpu3"}
    workspace, home = next(iter(homes.items()))
    prompt = json.dumps(fleet.host(home).engine.chats[0].chat)
    assert f"{home} has tree" in prompt
    assert fleet.home(workspace, at=1) == fleet.home(workspace, at=2) == home
    header = fleet.ask(at=1, headers={"X-Infbox-Workspace": workspace})
    assert header.headers["x-infbox-host"] == home


def test_what_names_no_workspace_goes_where_the_least_is_to_do(fleet: Fleet) -> None:
    for host in fleet.hosts:
        host.engine.delay = 1.0
    with ThreadPoolExecutor(6) as pool:
        answers = []
        for _ in range(6):
            answers.append(pool.submit(fleet.ask))
            time.sleep(0.1)
        who = Counter(answer.result().headers["x-infbox-host"] for answer in answers)
    assert who == {"gpu1": 2, "gpu2": 2, "gpu3": 2}


def test_what_is_too_much_for_one_host_goes_to_the_next_and_then_to_any(fleet: Fleet) -> None:
    homes = fleet.homes()
    for host in fleet.hosts:
        host.engine.delay = 1.5
    with ThreadPoolExecutor(14) as pool:
        answers = [pool.submit(fleet.ask, WORKSPACES[0]) for _ in range(MOST + 1)]
        who = Counter(answer.result().headers["x-infbox-host"] for answer in answers)
        assert who[homes[WORKSPACES[0]]] == MOST
        assert len(who) == 2
        answers = [pool.submit(fleet.ask, WORKSPACES[0]) for _ in range(3 * MOST + 2)]
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_lost_host_loses_nothing_that_had_not_begun_and_comes_back(fleet: Fleet) -> None:
    homes = fleet.homes()
    lost = fleet.host(next(home for home in homes.values() if home != "gpu1"))
    theirs = next(workspace for workspace, home in homes.items() if home == lost.name)
    try:
        results = asked_while_it_is_lost(fleet, lost, theirs)
        assert {result.status_code for result in results} == {200}
        begun = [result for result in results if "broke off" in result.text]
        assert all(result.headers["x-infbox-host"] == lost.name for result in begun)
        assert all(result.text.startswith("data:") for result in begun)
        assert not lost.engine.chats
        others = {**homes, **fleet.homes()}
        moved = {workspace for workspace in WORKSPACES if others[workspace] != homes[workspace]}
        assert moved == {workspace for workspace, home in homes.items() if home == lost.name}
    finally:
        lost.lose()
        lost.start()
    wait_for(lambda: fleet.homes() == homes)


def asked_while_it_is_lost(fleet: Fleet, lost: Host, theirs: str) -> list[httpx2.Response]:
    """Ask for eight seconds, a half of it in streams; lose a host meanwhile, at work."""
    answers: list[Future[httpx2.Response]] = []
    for host in fleet.hosts:
        host.engine.delay = 0.3
    under_way, ends = 0, time.monotonic() + 8
    with ThreadPoolExecutor(16) as pool:
        while time.monotonic() < ends:
            for workspace in (theirs, WORKSPACES[len(answers) % len(WORKSPACES)], ""):
                stream = len(answers) % 2 == 0
                answers.append(pool.submit(fleet.ask, workspace, stream=stream))
            if not under_way and ends - time.monotonic() < 5:
                under_way = lost.engine.under_way
                lost.lose()
                lost.engine.seen.clear()
            time.sleep(0.25)
    assert under_way
    for host in fleet.hosts:
        host.engine.delay = 0.0
    return [answer.result() for answer in answers]


def test_while_an_engine_is_away_its_host_is_passed_over(fleet: Fleet) -> None:
    homes = fleet.homes()
    away = fleet.host(homes[WORKSPACES[0]])
    away.engine.ending = True
    answers = [fleet.ask(WORKSPACES[0]) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert away.name not in {answer.headers["x-infbox-host"] for answer in answers}
    away.engine.ending = False
    wait_for(lambda: fleet.homes() == homes)


def test_while_all_engines_are_away_questions_wait(fleet: Fleet) -> None:
    for host in fleet.hosts:
        host.engine.ending = True
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fleet.ask, workspace) for workspace in (*WORKSPACES[:3], "")]
        time.sleep(4)
        assert not any(answer.done() for answer in answers)
        for host in fleet.hosts:
            host.engine.ending = False
        assert {answer.result(20).status_code for answer in answers} == {200}


def test_a_client_can_choose_neither_the_host_nor_the_user(fleet: Fleet) -> None:
    workspace = next(w for w, home in fleet.homes().items() if home != "gpu1")
    home = fleet.homes()[workspace]
    forged = {"X-Infbox-Routed": "1", "X-Infbox-User": "root", "X-Infbox-Concurrent": "1"}
    for chosen in ("", "another"):
        answer = fleet.ask(workspace, headers={**forged, "X-Infbox-Route": chosen})
        assert answer.headers["x-infbox-host"] == home
    assert "root" not in str(fleet.metric("infbox_gateway_requests"))


# What a client could send to be taken for somebody who may use more, or for nobody at all.
FORGED = [
    {},
    {"X-Infbox-Workspaces": "*"},
    {"x-infbox-workspaces": "*", "X-Infbox-User": "alice"},
    {"Connection": "close, X-Infbox-Workspaces"},
    {"Connection": "close, X-Infbox-User, X-Infbox-Workspaces", "X-Infbox-Workspaces": "*"},
    {"X-Infbox-Routed": "1", "X-Infbox-Workspaces": "*"},
]


def test_what_a_user_may_not_use_is_not_there_at_any_host(fleet: Fleet) -> None:
    own, other, absent = WORKSPACES[0], WORKSPACES[1], "none" * 3
    for host in fleet.hosts:
        host.engine.seen.clear()
    for forged, (at, host) in itertools.product(FORGED, enumerate(fleet.hosts)):
        headers = {**forged, "Authorization": f"Bearer {fleet.other_key}"}
        assert fleet.ask(own, at, headers).status_code == 200
        for path, by_name in itertools.product(QUESTIONS, (True, False)):
            texts = []
            for name in (other, absent):
                answer = httpx2.post(
                    host.url + path,
                    json={"model": f"coder@{name}" if by_name else "coder", **QUESTIONS[path]},
                    headers=headers if by_name else {**headers, "X-Infbox-Workspace": name},
                    verify=False,
                    timeout=60,
                )
                assert answer.status_code == 404, (path, forged, answer.text)
                texts.append(answer.text.replace(name, ""))
            assert texts[0] == texts[1]
            assert not any(name in texts[0] for name in WORKSPACES[1:])
    sent = [seen.body.decode() for host in fleet.hosts for seen in host.engine.seen]
    assert other not in "".join(sent)


def test_lists_and_packs_are_those_of_the_user_at_any_host(fleet: Fleet) -> None:
    own, other = WORKSPACES[:2]
    encoded = "".join(f"%{ord(character):02x}" for character in other)
    paths = {
        "/v1/models": True,
        "/v1/workspaces": True,
        f"/v1/models/coder@{own}": True,
        f"/v1/models/coder%40{own}": True,
        f"/v1/workspaces/{own}/status": True,
        f"/v1/workspaces/{own}/pack": True,
        "/status": True,
        f"/v1/models/coder@{other}": False,
        f"/v1/models/coder%40{other}": False,
        f"/v1/models/coder%40{encoded}": False,
        f"/v1/workspaces/{other}/status": False,
        f"/v1/workspaces/{other}/pack": False,
        f"/v1/workspaces/{encoded}/pack": False,
        f"/v1/workspaces/{other.upper()}/pack": False,
        f"/v1/workspaces/{own}/../{other}/pack": False,
        f"/v1/workspaces/{own}%2f..%2f{other}/pack": False,
    }
    for forged, host, path in itertools.product(FORGED, fleet.hosts, paths):
        headers = {**forged, "Authorization": f"Bearer {fleet.other_key}"}
        status, text = fetched(host, path, headers)
        assert status == (200 if paths[path] else 404), (path, forged, status, text)
        assert not any(f"has {name}" in text for name in WORKSPACES[1:]), path
        hidden = [name for name in WORKSPACES[1:] if name not in path]
        assert not any(name in text for name in hidden), (path, forged, text)


def fetched(host: Host, target: str, headers: dict[str, str]) -> tuple[int, str]:
    """Fetch a target that is sent as it is written."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = host.ports["https"]
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_question_is_counted_once_by_its_user(fleet: Fleet) -> None:
    before = fleet.metric("infbox_gateway_requests")
    for workspace in WORKSPACES:
        fleet.ask(workspace)
    grown = fleet.metric("infbox_gateway_requests") - before
    assert grown == {
        f'{{status="200",user="alice",workspace="{workspace}"}}': 1 for workspace in WORKSPACES
    }


def test_a_client_that_leaves_is_computed_for_no_longer(fleet: Fleet) -> None:
    workspace, home = next((w, home) for w, home in fleet.homes().items() if home != "gpu1")
    stub = fleet.host(home).engine
    before = stub.cancelled
    stub.delay = 30.0
    with contextlib.suppress(httpx2.TimeoutException):
        httpx2.post(
            fleet.hosts[0].url + CHAT, verify=False, timeout=1,
            headers={"Authorization": f"Bearer {fleet.key}"},
            json={"model": f"coder@{workspace}", "messages": [{"role": "user", "content": "?"}]},
        )  # fmt: skip
    wait_for(lambda: stub.cancelled == before + 1, 5)


def test_the_hosts_port_takes_nobody_without_the_group_s_certificate(
    fleet: Fleet, tmp_path: Path
) -> None:
    host = fleet.hosts[1]
    own, group = tmp_path / "own", host.folder / "data/replicas"
    own.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=infbox-replicas",
         "-addext", "extendedKeyUsage=clientAuth",
         "-keyout", own / "group.key", "-out", own / "group.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    host.engine.seen.clear()
    ask: dict[str, Any] = {"json": {"model": "coder"}, "headers": {"Host": "infbox-replicas"}}
    named = {"sni_hostname": "infbox-replicas"}
    for shown in (None, own):
        with (
            pytest.raises(httpx2.TransportError),
            httpx2.Client(verify=trusting(group, shown)) as stranger,
        ):
            stranger.post(host.inner + CHAT, extensions=named, **ask)
    for name in ("localhost", "infbox-replicas.example"):  # for which TLS asks for no certificate
        with httpx2.Client(verify=False) as stranger, contextlib.suppress(httpx2.TransportError):
            said = stranger.post(host.inner + CHAT, extensions={"sni_hostname": name}, **ask)
            assert said.status_code in (403, 421)
    assert not host.engine.chats
    with httpx2.Client(verify=trusting(group, group)) as member:
        said = member.post(host.inner + CHAT, extensions=named, **ask)
        assert said.status_code == 401  # another host's Caddy says who asks, and what they may see
        ask["headers"] |= {"X-Infbox-User": "alice", "X-Infbox-Workspaces": "*"}
        said = member.post(host.inner + CHAT, extensions=named, **ask)
        assert (said.status_code, said.headers["x-infbox-host"]) == (400, host.name)
        for path in ("/metrics", "/status", "/v1/models", "/ready/"):
            other = member.get(host.inner + path, extensions=named, headers=ask["headers"])
            assert other.status_code == 404


def trusting(group: Path, shown: Path | None) -> ssl.SSLContext:
    """Return what trusts the group, and shows a certificate or none."""
    context = ssl.create_default_context(cafile=str(group / "group.crt"))
    context.check_hostname = False
    if shown:
        context.load_cert_chain(shown / "group.crt", shown / "group.key")
    return context
