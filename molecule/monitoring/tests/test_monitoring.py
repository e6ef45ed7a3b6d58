"""The monitoring role on a lab host: the real Prometheus, exporters and Alertmanager.

Grafana and the DCGM exporter are rendered and not run, for the lab has no image of them.
"""

import base64
import json
import time
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from testinfra.host import Host

STAGING = "/etc/infbox/monitoring-staging"
SECRETS = "/etc/infbox/secrets/monitoring"
RUNNING = ("prometheus", "node-exporter", "blackbox-exporter", "alertmanager")
RENDERED = (*RUNNING, "grafana", "dcgm-exporter")
COMPOSE = "docker compose --project-name monitoring-test " + " ".join(
    f"--file {STAGING}/compose/{name}.yml" for name in RUNNING
)
PROMETHEUS = "http://127.0.0.1:9090/prometheus"
ALERTMANAGER = "http://127.0.0.1:9093/alertmanager"
ASK = """\
import sys, urllib.error, urllib.request as r
request = r.Request(sys.argv[1], headers={"Authorization": sys.argv[2]} if sys.argv[2] else {})
try:
    print(r.urlopen(request, timeout=10).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module", autouse=True)
def up(host: Host) -> None:
    """Start what the lab has images of, as the stack role would."""
    host.check_output(f"ln -sfn {STAGING} /etc/infbox/monitoring-live")
    done = host.run(f"{COMPOSE} up --detach --wait --wait-timeout 90")
    assert done.rc == 0, done.stderr + host.run(f"{COMPOSE} logs").stdout


def ask(host: Host, url: str, login: str = "admin") -> str:
    """Return what an address answers, or the number of its refusal; without a login where none."""
    header = ""
    if login:
        file = {"admin": "password", "fleet": "fleet-password"}[login]
        password = host.file(f"{SECRETS}/{file}").content_string.strip()
        header = f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"
    return str(host.check_output("python3 -c %s %s %s", ASK, url, header))


def series(host: Host, query: str) -> list[dict[str, Any]]:
    """Return the series of a query, given half a minute to come."""
    deadline = time.monotonic() + 30
    while True:
        answer = json.loads(ask(host, f"{PROMETHEUS}/api/v1/query?query={quote(query)}"))
        result: list[dict[str, Any]] = answer["data"]["result"]
        if result or time.monotonic() > deadline:
            return result
        time.sleep(1)


@pytest.mark.parametrize("url", [f"{PROMETHEUS}/api/v1/targets", f"{ALERTMANAGER}/api/v2/alerts"])
def test_nobody_is_let_in_without_the_login(host: Host, url: str) -> None:
    assert ask(host, url, login="") == "401"
    json.loads(ask(host, url))


def test_whoever_watches_over_the_fleet_reads_prometheus_and_nothing_else(host: Host) -> None:
    series(host, "up")
    page = ask(host, f"{PROMETHEUS}/federate?match[]=up", login="fleet")
    assert [line for line in page.splitlines() if line.startswith("up{") and 'job="node"' in line]
    assert ask(host, f"{ALERTMANAGER}/api/v2/alerts", login="fleet") == "401"


def test_a_host_of_the_fleet_that_does_not_answer_is_told(host: Host) -> None:
    assert series(host, 'up{job="fleet",host="gone"} == 0')


def test_secrets_are_the_services_own_and_nowhere_else(host: Host) -> None:
    for name in (
        "password", "fleet-password", "web.yml", "alertmanager-web.yml", "webhook-url",
        "mail-password", "fleet/gone.password",
    ):  # fmt: skip
        file = host.file(f"{SECRETS}/{name}")
        assert (file.uid, file.gid, file.mode) == (64432, 64432, 0o600)
    assert host.file("/etc/infbox/secrets").mode == 0o700
    password = host.file(f"{SECRETS}/password").content_string.strip()
    assert len(password) == 32
    inspected = host.check_output("docker inspect $(docker ps --quiet)")
    rendered = host.check_output(f"cat $(find {STAGING} -type f)")
    for secret in (password, "hook-with-a-secret", "a-mail-password", "a-fleet-password"):
        assert secret not in inspected
        assert secret not in rendered


def test_history_ends_at_a_time_and_at_a_size(host: Host) -> None:
    flags = json.loads(ask(host, f"{PROMETHEUS}/api/v1/status/flags"))["data"]
    assert flags["storage.tsdb.retention.time"] in ("7d", "1w")
    assert flags["storage.tsdb.retention.size"] in ("1GB", "1GiB")


def test_everything_listens_on_loopback(host: Host) -> None:
    listening = host.check_output("ss --listening --tcp --udp --numeric --no-header").splitlines()
    ports = {"9090", "9093", "9100", "9115"}
    addresses = {line.split()[4] for line in listening}
    ours = {address for address in addresses if address.rpartition(":")[2] in ports}
    assert ours == {f"127.0.0.1:{port}" for port in ports}
    assert not [address for address in addresses if address.endswith(":9094")]


def test_containers_have_no_more_rights_than_they_need(host: Host) -> None:
    for name in RUNNING:
        inspected = json.loads(host.check_output(f"docker inspect monitoring-test-{name}-1"))[0]
        nobody = name == "node-exporter"
        assert inspected["Config"]["User"] == ("65534:65534" if nobody else "64432:64432")
        assert inspected["HostConfig"]["ReadonlyRootfs"]
        assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in inspected["HostConfig"]["SecurityOpt"][0]


@pytest.mark.parametrize("job", ["prometheus", "alertmanager", "node"])
def test_each_is_asked_and_named_after_the_host(host: Host, job: str) -> None:
    assert series(host, f'up{{job="{job}",host="lab"}} == 1')


def test_units_and_disks_of_the_host_are_seen_from_the_container(host: Host) -> None:
    assert series(host, 'node_systemd_unit_state{name="ssh.service",state="active"} == 1')
    assert series(host, 'node_filesystem_avail_bytes{mountpoint="/var/lib/docker"} > 0')


def test_a_probe_tells_what_an_answer_holds(host: Host) -> None:
    assert series(host, 'probe_success{probe="itself"} == 1')
    assert series(host, 'probe_success{probe="refusing"} == 0')


def test_a_probe_sends_what_it_is_given(host: Host) -> None:
    module = yaml.safe_load(host.file(f"{STAGING}/blackbox-exporter/blackbox.yml").content_string)
    http = module["modules"]["posting"]["http"]
    assert (http["method"], json.loads(http["body"])) == ("POST", {"max_tokens": 1})


def test_nothing_is_collected_that_was_not_asked_for(host: Host) -> None:
    found = series(host, "node_scrape_collector_success")
    names = {"cpu", "diskstats", "filesystem", "meminfo", "netdev", "systemd", "textfile"}
    assert {one["metric"]["collector"] for one in found} == names


def test_the_rules_are_loaded_and_sound(host: Host) -> None:
    groups = json.loads(ask(host, f"{PROMETHEUS}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert not [rule for rule in rules if rule["health"] == "err"]


def test_alertmanager_reads_its_secrets_from_files(host: Host) -> None:
    config = json.loads(ask(host, f"{ALERTMANAGER}/api/v2/status"))["config"]["original"]
    receiver = yaml.safe_load(config)["receivers"][0]
    assert receiver["webhook_configs"][0]["url_file"] == "/run/secrets/monitoring/webhook-url"
    mail = receiver["email_configs"][0]
    assert mail["auth_password_file"].endswith("/monitoring/mail-password")
    assert "auth_password" not in mail


@pytest.mark.parametrize("name", RENDERED)
def test_compose_takes_each_fragment(host: Host, name: str) -> None:
    host.check_output(f"docker compose --file {STAGING}/compose/{name}.yml config --quiet")


def test_grafana_would_find_its_source_and_its_dashboards(host: Host) -> None:
    folder = f"{STAGING}/grafana"
    text = host.file(f"{folder}/provisioning/datasources/prometheus.yml").content_string
    source = yaml.safe_load(text)["datasources"][0]
    assert (source["uid"], source["url"]) == ("prometheus", PROMETHEUS)
    assert source["secureJsonData"]["basicAuthPassword"].startswith("$__file{/run/secrets/")
    assert len(host.file(f"{folder}/dashboards").listdir()) == 6


def test_prometheus_knows_who_is_in_which_team(host: Host) -> None:
    found = [each["metric"] for each in series(host, "infbox_team_member")]
    assert sorted((each["team"], each["user"]) for each in found) == [
        ("store", "ann"),
        ("store", "max"),
    ]
