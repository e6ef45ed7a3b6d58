"""The lmcache role on a lab host."""

import json
from typing import Any

from testinfra.host import Host

FRAGMENT = "/etc/infbox/staging/compose/lmcache.yml"


def test_compose_accepts_the_fragment(host: Host) -> None:
    config = host.check_output(f"docker compose --project-name t --file {FRAGMENT} config")
    assert "no-new-privileges" in config


def test_ports_are_on_loopback_only(host: Host) -> None:
    command = compose_service(host)["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--http-host") + 1] == "127.0.0.1"


def test_the_disk_tier_is_bounded(host: Host) -> None:
    command = compose_service(host)["command"]
    adapter = json.loads(command[command.index("--l2-adapter") + 1])
    assert adapter["max_capacity_gb"] == 2
    assert adapter["eviction"]["eviction_policy"] == "LRU"


def test_the_disk_tier_belongs_to_the_engine_alone(host: Host) -> None:
    folder = host.file("/var/lib/infbox/lmcache")
    assert (folder.uid, folder.gid, folder.mode) == (64430, 64430, 0o750)


def test_the_disk_tier_is_encrypted_with_a_key_of_the_host(host: Host) -> None:
    service = compose_service(host)
    command = service["command"]
    adapter = json.loads(command[command.index("--l2-adapter") + 1])
    assert adapter["serde"]["type"] == "aesgcm"
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    key = mounts[adapter["serde"]["master_key_path"]]
    assert key["read_only"] is True
    file = host.file(key["source"])
    assert (file.user, file.gid, file.mode) == ("root", 64430, 0o640)
    assert len(file.content) == 64


def test_what_was_written_unencrypted_is_gone(host: Host) -> None:
    assert host.file("/var/lib/infbox/lmcache/encrypted").is_directory
    assert not host.file("/var/lib/infbox/lmcache/of-before.data").exists


def test_cake_stages_in_the_server(host: Host) -> None:
    command = compose_service(host)["command"]
    module = json.loads(command[command.index("--server-module") + 1])
    assert module["module_path"] == "infbox_cake.on_lmcache"


def compose_service(host: Host) -> dict[str, Any]:
    """Return the service as compose reads it."""
    output = host.check_output(
        f"docker compose --project-name t --file {FRAGMENT} config --format json"
    )
    service: dict[str, Any] = json.loads(output)["services"]["lmcache"]
    return service
