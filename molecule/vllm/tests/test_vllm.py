"""The vllm role on a lab host; that the engine takes these arguments is seen in tests/system."""

import json
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.rerun import play

SCENARIO = Path(__file__).resolve().parent.parent
ROOT = SCENARIO.parents[1]
GUARD = ROOT / "watcher/src/infbox/gateway/fields.py"
COMMAND = (
    "docker compose --project-name t --file /etc/infbox/staging/compose/vllm.yml"
    " config --no-consistency --format json"
)


@pytest.fixture
def service(host: Host) -> dict[str, Any]:
    """Return the service as compose reads it."""
    config: dict[str, Any] = json.loads(host.check_output(COMMAND))
    vllm: dict[str, Any] = config["services"]["vllm"]
    return vllm


def value(service: dict[str, Any], option: str) -> str:
    """Return the argument that follows an option."""
    command = service["command"]
    return str(command[command.index(option) + 1])


def kv_transfer(service: dict[str, Any]) -> Any:
    """Return what the engine is told about LMCache."""
    return json.loads(value(service, "--kv-transfer-config"))


def test_it_listens_on_loopback_only(service: dict[str, Any]) -> None:
    assert value(service, "--host") == "127.0.0.1"
    assert service["environment"]["GLOO_SOCKET_IFNAME"] == "lo"


def test_it_computes_in_one_process_with_the_threads_that_were_named(
    service: dict[str, Any],
) -> None:
    assert service["environment"]["OMP_NUM_THREADS"] == "3"
    assert service["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_it_serves_every_name(service: dict[str, Any]) -> None:
    command = service["command"]
    first = command.index("--served-model-name") + 1
    assert command[first : first + 2] == ["coder", "coder@shop"]


def test_a_lost_piece_of_cache_is_computed_anew(service: dict[str, Any]) -> None:
    transfer = kv_transfer(service)
    assert transfer["kv_load_failure_policy"] == "recompute"
    assert transfer["kv_connector_extra_config"]["lmcache.mp.port"] == 5555


def test_lmcache_is_seen_away_before_it_is_back(service: dict[str, Any]) -> None:
    given = kv_transfer(service)["kv_connector_extra_config"]
    assert 2 * given["lmcache.mp.heartbeat_interval"] < 5  # seconds that its start takes at least
    assert given["lmcache.mp.mq_timeout"] <= 30


def test_without_cake_vllm_schedules_by_itself(service: dict[str, Any]) -> None:
    transfer = kv_transfer(service)
    assert transfer["kv_connector"] == "InfboxConnector"
    assert transfer["kv_connector_module_path"] == "infbox_cake.connector"
    assert "--scheduler-cls" not in service["command"]


def test_traces_go_over_http_as_the_gateways_do(service: dict[str, Any]) -> None:
    assert value(service, "--otlp-traces-endpoint") == "http://192.0.2.1:4318/v1/traces"
    assert service["environment"]["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


def test_requests_are_looked_at_before_vllm_does(host: Host, service: dict[str, Any]) -> None:
    assert value(service, "--middleware") == "infbox_guard.Guard"
    image, folder = service["environment"]["PYTHONPATH"].split(":")
    assert f"PYTHONPATH={image} " in (ROOT / "files/engine/Dockerfile").read_text()
    mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
    assert mounts[f"{folder}/infbox_guard.py"] == "/etc/infbox/live/vllm/infbox_guard.py"
    staged = host.file("/etc/infbox/staging/vllm/infbox_guard.py")
    assert (staged.user, staged.mode) == ("root", 0o644)
    assert staged.content_string == GUARD.read_text()
    ask = "import sys; sys.path[0] = sys.argv[1]; import infbox_guard as g; print(g.Guard.__name__)"
    assert host.check_output("python3 -c %s /etc/infbox/staging/vllm", ask) == "Guard"
    assert service["labels"]["infbox.config-checksum"]


def test_kv_is_sixteen_bits_wide(service: dict[str, Any]) -> None:
    assert value(service, "--dtype") == "float16"
    assert value(service, "--kv-cache-dtype") == "auto"


def test_the_model_is_mounted_read_only_at_its_own_path(service: dict[str, Any]) -> None:
    mounts = {mount["source"]: mount for mount in service["volumes"]}
    path = "/var/lib/infbox/models/some-model"
    assert mounts[path]["target"] == path
    assert all(mount["read_only"] is True for mount in mounts.values())
    assert len(mounts) == 2


def test_the_container_is_confined(service: dict[str, Any]) -> None:
    assert service["user"] == "64430:64430"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]


def test_requests_in_flight_get_their_time(service: dict[str, Any]) -> None:
    assert value(service, "--shutdown-timeout") == "60"
    assert service["stop_grace_period"] == "1m30s"


def test_rules_for_one_of_several_hosts_are_loaded_and_taken_away(host: Host) -> None:
    run("guard")
    loaded = host.check_output("nft list table inet infbox_node_guard")
    assert "ip saddr 192.0.2.11 accept" in loaded
    assert "5555" in loaded
    run("unguard")
    assert "infbox_node_guard" not in host.check_output("nft list tables")
    for file in ("infbox/node-guard.nft", "systemd/system/infbox-node-guard.service"):
        assert not host.file(f"/etc/{file}").exists


def test_rules_that_the_kernel_refuses_are_not_written(host: Host) -> None:
    run("guard")
    rules = host.file("/etc/infbox/node-guard.nft")
    before = rules.content_string
    try:
        status, seen = play(SCENARIO / "guard.yml", which="guard", vllm_nodes=["192.0.2.11/99"])
        assert status != 0 and "failed to validate" in seen, seen
        assert rules.content_string == before
    finally:
        run("unguard")


def run(tasks: str) -> None:
    """Run some of the role's tasks against the host."""
    status, seen = play(SCENARIO / "guard.yml", which=tasks)
    assert status == 0, seen
