"""The valkey role on a lab host: the real Valkey."""

import json
from typing import Any

import pytest
from testinfra.host import Host

STAGING = "/etc/infbox/staging"
COMPOSE = f"docker compose --project-name valkey-test --file {STAGING}/compose/valkey.yml"
JOURNAL = f"{COMPOSE} logs --tail 40; journalctl --no-pager --lines 40"
CERTIFICATES = "/etc/infbox/cache"
PORT = 8445
MEGABYTES = 10
# Three times what there is room for: Valkey looks at five keys, not at all, for the oldest.
WRITTEN = 30


@pytest.fixture(scope="module", autouse=True)
def up(host: Host) -> None:
    """Start it, as the stack role would."""
    done = host.run(f"{COMPOSE} up --detach --wait --wait-timeout 60")
    assert done.rc == 0, done.stderr + host.run(f"{COMPOSE} logs").stdout


def container(host: Host) -> str:
    return str(host.check_output(f"{COMPOSE} ps --quiet valkey"))


def ask(host: Host, *words: str, given: str = "", shows: str = "group") -> str:
    """Return what Valkey answers to who shows a certificate, or none; not from loopback."""
    folder = "/run/valkey"
    shown = f"--cert {folder}/{shows}.crt --key {folder}/{shows}.key" if shows else ""
    address = host.check_output("hostname --all-ip-addresses").split()[0]
    cli = (
        f"valkey-cli -h {address} -p {PORT} --tls --cacert {folder}/group.crt {shown}"
        f" {' '.join(words)}"
    )
    done = host.run(f"{given or 'true'} | docker exec --interactive {container(host)} {cli}")
    return str(done.stdout + done.stderr).strip()


def test_who_has_the_certificate_may_use_the_cache_and_nothing_else(host: Host) -> None:
    assert ask(host, "set one 1") == "OK"
    assert ask(host, "get one") == "1"
    for command in ("config get maxmemory", "keys one", "flushall", "acl list", "eval x 0"):
        assert "NOPERM" in ask(host, command), command


@pytest.mark.parametrize("shows", ["other", ""])
def test_who_has_another_certificate_or_none_gets_nothing(host: Host, shows: str) -> None:
    assert ask(host, "get one") == "1"
    assert "1" not in ask(host, "get one", shows=shows).splitlines()


def test_nobody_speaks_to_it_without_tls(host: Host) -> None:
    said = host.run(f"docker exec {container(host)} valkey-cli -p {PORT} ping")
    assert "PONG" not in said.stdout


def test_it_keeps_no_more_than_it_may_and_the_oldest_goes(host: Host) -> None:
    names = [f"big{number}" for number in range(WRITTEN)]
    for name in names:
        written = ask(host, f"-x set {name}", given=f"head --bytes {MEGABYTES}000000 /dev/zero")
        assert written == "OK"
    assert 0 < int(ask(host, "exists", *names)) <= 10
    assert ask(host, f"exists {names[0]}") == "0"
    assert ask(host, f"exists {names[-1]}") == "1"


def test_nothing_outlives_it(host: Host) -> None:
    ask(host, "set two 2")
    host.check_output(f"{COMPOSE} restart valkey")
    host.check_output(f"{COMPOSE} up --detach --wait --wait-timeout 60")
    assert ask(host, "exists two") == "0"


def test_the_container_may_do_nothing_but_that(host: Host) -> None:
    told: dict[str, Any] = json.loads(host.check_output(f"docker inspect {container(host)}"))[0]
    has = told["HostConfig"]
    assert has["ReadonlyRootfs"] is True
    assert has["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in has["SecurityOpt"]
    assert told["Config"]["User"] == "64434:64434"
    assert has["Memory"] > 0


def test_the_key_is_in_its_file_alone(host: Host) -> None:
    key = host.file(f"{CERTIFICATES}/group.key").content_string.splitlines()[1]
    for place in (f"docker inspect {container(host)}", f"cat {STAGING}/valkey/*"):
        assert key not in host.check_output(place)
