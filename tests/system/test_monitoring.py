"""Monitoring of a deployed host: no panel is empty, and what fails there holds up nobody."""

import json
import math
import shlex
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from promql import filled, metric_names

from lab import hosts
from lab.deployment import inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT
from tests.monitoring.panels import CAKE, OTHERS, gpu_metrics, metrics, panels
from tests.system.conftest import Site

pytestmark = pytest.mark.lab

WATCHING = "system-watching"
SAVED = "seen_by_monitoring.py"
# This host has none of it: tests/cake, tests/monitoring and tests/valkey see that these are told.
ELSEWHERE = metrics(CAKE, *OTHERS) | {"infbox_shared_cache_up"}
LOAD_SECONDS = 25
SEEN_SECONDS = 40  # everything is asked every 15 s, and a rate needs two answers
# What the DCGM exporter would tell, in a file that the node exporter reads: there is no GPU here.
STUB_DCGM = "/var/lib/infbox/metrics/stub-dcgm.prom"
# Runs on the host, whose Prometheus listens on loopback; prints the answer to each path.
ASK = """\
import base64, json, sys, urllib.request as r
password = open("/etc/infbox/secrets/monitoring/password").read().strip()
login = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
def ask(path):
    request = r.Request("http://127.0.0.1:9090/prometheus" + path, headers={"Authorization": login})
    return json.loads(r.urlopen(request, timeout=30).read())["data"]
print(json.dumps([ask(path) for path in json.loads(sys.stdin.read())]))
"""

POST = (
    "import sys, urllib.request as r; kind = {'Content-Type': 'application/json'};"
    "r.urlopen(r.Request(sys.argv[1], sys.stdin.buffer.read(), kind), timeout=30)"
)

# Prints the status of an answer, whoever signed the certificate.
LOOK = """\
import ssl, sys, urllib.error, urllib.request as r
try:
    print(r.urlopen(sys.argv[1], timeout=10, context=ssl._create_unverified_context()).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def ask(host: Host, *paths: str) -> list[Any]:
    """Return what Prometheus answers to some paths of its API."""
    command = f"printf %s {shlex.quote(json.dumps(paths))} | python3 -c {shlex.quote(ASK)}"
    answers: list[Any] = json.loads(ssh(host, command))
    return answers


def empty(host: Host, queries: Iterable[str], since: float) -> list[str]:
    """Return those of some queries that had no value since some time, in seconds of Unix time."""
    asked = list(queries)
    span = f"start={since}&end={time.time()}&step=15"
    paths = [f"/api/v1/query_range?query={quote(filled(query))}&{span}" for query in asked]
    return [q for q, answer in zip(asked, ask(host, *paths), strict=True) if not values(answer)]


def values(answer: dict[str, Any]) -> list[float]:
    """Return the values in an answer that are numbers."""
    found = [float(value) for series in answer["result"] for _, value in series["values"]]
    return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def load(site: Site) -> Iterator[float]:
    """Ask, hang up and save for a while, so that all there is to see happens; say since when."""
    began = time.time()
    stub = (ROOT / "tests/monitoring/dcgm.prom").read_text()
    site.ssh(f"printf %s {shlex.quote(stub)} > {STUB_DCGM}")
    save(site, "def seen() -> None: ...\n")
    site.client.ask(cold=True)
    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline:
        site.client.ask()
        hang_up(site)
        load_from_disk(site)
        time.sleep(1)
    # A watcher that was just started counts from its first save, and a rate needs one more.
    save(site, "def seen_again() -> None: ...\n")
    yield began
    (site.tree / SAVED).unlink()
    site.ssh(f"rm {STUB_DCGM}")


def save(site: Site, text: str) -> None:
    """Save a file and wait until its pack is warm, which yields to people who ask."""
    since = time.time()
    (site.tree / SAVED).write_text(text)
    site.client.wait_until_saved(since)


def hang_up(site: Site) -> None:
    """Ask, and leave while the answer comes."""
    stream = site.client.openai.completions.create(
        model="coder", prompt="def ", max_tokens=200, stream=True
    )
    next(iter(stream))
    stream.close()


def load_from_disk(site: Site) -> None:
    """Have LMCache forget what it has in RAM, and bring it back, as after a restart."""
    tokens = site.client.prompt_ids()
    (model, *_) = site.client.openai.models.list().data
    asked = {"model_name": (model.model_extra or {})["root"], "world_size": 1, "token_ids": tokens}
    for path, body in {"clear": {"tier": "l1"}, "prefetches": asked}.items():
        url = f"http://127.0.0.1:8020/cache/{path}"
        given = shlex.quote(json.dumps(body))
        site.ssh(f"printf %s {given} | python3 -c {shlex.quote(POST)} {url}")


def test_no_panel_is_empty(site: Site, load: float) -> None:
    queries = {
        query: str(panel)
        for panel in panels()
        for query in panel.queries
        if not metric_names(query) & ELSEWHERE
    }
    assert len(queries) > 70
    left = empty(site.host, queries, load)
    deadline = time.monotonic() + SEEN_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(5)
        left = empty(site.host, left, load)
    assert [f"{queries[query]}: {query}" for query in left] == []
    assert empty(site.host, ["rate(infbox_gateway_no_such_metric[1m])"], load)


@pytest.mark.usefixtures("load")
def test_every_metric_that_a_panel_or_an_alert_names_exists(site: Site) -> None:
    (known,) = ask(site.host, "/api/v1/label/__name__/values")
    files = sorted((ROOT / "files/alerts").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    queries = [rule["expr"] for rule in rules] + [q for panel in panels() for q in panel.queries]
    named = {name for query in queries for name in metric_names(query)}
    made = {rule["record"] for rule in rules if "record" in rule} | {"ALERTS"}
    # Those of backups are there once one was made, which molecule/backup sees.
    later = {name for name in named if name.startswith(("infbox_backup_", "infbox_remote_"))}
    assert sorted(named - set(known) - gpu_metrics() - made - later - ELSEWHERE) == []


def test_without_monitoring_everything_serves_as_before(site: Site) -> None:
    project = "docker compose --project-name infbox-monitoring"
    site.ssh(f"{project} kill")
    try:
        answer = site.client.ask()
        assert answer.text
        assert answer.cached_tokens
    finally:
        site.ssh(f"{project} start")


@pytest.fixture(scope="module")
def watching(site: Site) -> Iterator[Host]:
    """A host that serves nothing and watches over the deployed one."""
    with hosts.fresh(WATCHING, "debian13-docker") as host:
        folder = inventory(host, {}, "monitoring")
        play(["playbooks/monitoring.yml", "-i", site.inventory, "-i", folder], "system-monitoring")
        yield host


@pytest.mark.long
def test_one_host_watches_over_another(site: Site, watching: Host) -> None:
    here = f'host="{site.host.instance}"'
    queries = [f'up{{job="fleet",{here}}} == 1', f'up{{job="vllm",{here}}} == 1']
    queries.append(f"infbox_pack_warm{{{here}}}")
    began, deadline = time.time(), time.monotonic() + SEEN_SECONDS
    while (left := empty(watching, queries, began)) and time.monotonic() < deadline:
        time.sleep(1)
    assert left == []


@pytest.mark.long
def test_who_watches_has_pages_with_a_login_and_no_api(watching: Host) -> None:
    running = ssh(watching, "docker ps --format '{{.Names}}'").split()
    services = ("blackbox-exporter", "caddy", "node-exporter", "prometheus")
    assert sorted(running) == [f"infbox-monitoring-{service}-1" for service in services]
    pages = {":8443/prometheus/-/ready": 401, "/v1/models": 404, "/health": 404}
    for page, status in pages.items():
        look = f"python3 -c {shlex.quote(LOOK)} https://{watching.address}{page}"
        assert ssh(watching, look) == str(status)
