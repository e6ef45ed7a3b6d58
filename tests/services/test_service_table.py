"""A row of the table is all that a service takes, and a port's number stands there alone."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.services.rendering import FOLLOWED, ROOT, SHOP, SIGN_IN, host, render

GROUP_VARS = ROOT / "group_vars/all"
TABLE = GROUP_VARS / "services.yml"
ROLES = ("backup", "bundle", "caddy", "images", "lmcache", "monitoring", "preflight", "stack",
         "uninstall", "valkey", "vllm", "watcher")  # fmt: skip
# Beside the templates: what tasks take from the wiring.
VARIABLES = (
    "_infbox_release_roles", "_monitoring_texts", "backup_paths", "backup_restore_units",
    "bundle_images", "bundle_packages",
    "caddy_consoles", "images_list", "monitoring_probes", "monitoring_targets", "preflight_ports",
    "preflight_users", "stack_health_checks", "stack_host_units", "stack_services",
    "uninstall_data_directories",
    "uninstall_files", "uninstall_images", "uninstall_packages", "uninstall_users",
)  # fmt: skip
PORT = re.compile(r"\bport: (\d+)")
MOVED_BY = 20000
NEW = """
  extra:
    kind: unit
    user: infbox-extra
    ports:
      extra:
        port: 8099
        at: "127.0.0.1:{{ _infbox_services.extra.ports.extra.port }}"
        purpose: more
    metrics: extra
    runs_by: [/etc/infbox/extra.yml]
    files: [/etc/extra.conf]
    data: [/etc/infbox/extra]
    backup: [/var/lib/infbox/extra]
    packages: [extra-tools]
  extra-pages:
    kind: container
    role: extra
    image: extra
    ports: {pages: {port: 8098, at: "127.0.0.1:28098", purpose: its pages}}
    page: {path: /extra}

# Users by uid."""
EXTRA_IMAGE = {"repository": "extra/extra", "tag": "1", "digest": "sha256:" + "0" * 64}


def table() -> dict[str, Any]:
    """Return the table as it is written."""
    rows: dict[str, Any] = yaml.safe_load(TABLE.read_text())["_infbox_services"]
    return rows


def numbers() -> list[int]:
    """Return all ports of the table."""
    return [port["port"] for row in table().values() for port in row.get("ports", {}).values()]


def everything(number: int, **more: Any) -> dict[str, Any]:
    """Return a replica on which every service is that there can be on one."""
    return host(
        "dev24",
        gpus=1,
        infbox_workspaces=[SHOP, FOLLOWED],
        infbox_git_secrets={"web": {"token": "t", "webhook": "w"}},
        infbox_alert_webhook="https://hook.example",
        infbox_images={"extra": EXTRA_IMAGE},
        infbox_replicas=True,
        infbox_replica_address=f"192.0.2.{20 + number}",
        _infbox_replica_source="all1",
        _infbox_replica_keys_source="all1",
        infbox_shared_cache_gb=8,
        **SIGN_IN,
        **more,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what hosts are told where every port is another one and two services are new."""
    folder = tmp_path_factory.mktemp("services")
    tree = folder / "tree"
    (tree / "group_vars/all").mkdir(parents=True)
    for name in ("roles", "plugins", "watcher", "files"):
        (tree / name).symlink_to(ROOT / name)
    for each in GROUP_VARS.iterdir():
        if each != TABLE:
            (tree / "group_vars/all" / each.name).symlink_to(each)
    text = TABLE.read_text().replace("\n# Users by uid.", NEW, 1)
    text = PORT.sub(lambda match: f"port: {int(match[1]) + MOVED_BY}", text)
    text = text.replace("_infbox_users:\n", "_infbox_users:\n  infbox-extra: 64499\n")
    (tree / "group_vars/all/services.yml").write_text(text)
    node = {
        "infbox_model_group": "both",
        "infbox_images": {"extra": EXTRA_IMAGE},
    }
    hosts = {
        "all1": everything(1),
        "all2": everything(2),
        "own": host(
            watcher_listen="127.0.0.1:9011",
            watcher_gateway_listen="127.0.0.1:9010",
            infbox_images={"extra": EXTRA_IMAGE},
        ),
        "head": host("prod480x2", 8, infbox_model_group_address="192.0.2.11", **node),
        "worker": host("prod480x2", 8, infbox_model_group_address="192.0.2.12", **node),
    }
    return render(
        folder / "work", {"inference": {"hosts": hosts}}, tree=tree, roles=ROLES,
        hosts="all1,own,worker", only=VARIABLES,
    )  # fmt: skip


def said(roles: Any) -> str:
    """Return all that a host's roles come to, as text."""
    return json.dumps(roles)


def released(host_told: dict[str, Any]) -> list[str]:
    """Return the roles that a host's services are rendered by."""
    roles: list[str] = host_told["group_vars"]["_infbox_release_roles"]
    return roles


def found(number: int, text: str) -> list[str]:
    """Return where a number stands in a text as a port might."""
    places = re.finditer(rf"(?<![\w.]){number}(?![\w.])", text)
    return [text[max(place.start() - 40, 0) : place.end() + 20] for place in places]


@pytest.mark.parametrize("name", ["all1", "own", "worker"])
def test_no_role_names_a_port_that_the_table_does_not(
    told: dict[str, dict[str, Any]], name: str
) -> None:
    text = said(told[name])
    left = {number: found(number, text) for number in numbers()}
    assert not {number: places for number, places in left.items() if places}


def test_every_port_is_told_to_some_role(told: dict[str, dict[str, Any]]) -> None:
    text = said([values for host_name in ("all1", "worker")
                 for name, values in told[host_name].items() if name != "preflight"])  # fmt: skip
    assert [number for number in numbers() if not found(number + MOVED_BY, text)] == []


def test_where_the_watcher_and_the_gateway_listen_is_said_once(
    told: dict[str, dict[str, Any]],
) -> None:
    own = told["own"]
    text = said(own)
    assert found(28010, text) == found(28011, text) == []
    assert "127.0.0.1:9010" in own["caddy"]["Caddyfile.j2"]
    assert {"address": "127.0.0.1:9011", "job": "watcher"} in own["monitoring"][
        "monitoring_targets"
    ]
    ports = {port["port"]: port["purpose"] for port in own["preflight"]["preflight_ports"]}
    assert (ports[9010], ports[9011]) == ("the gateway", "the watcher")


def test_a_unit_with_a_row_is_in_every_list(told: dict[str, dict[str, Any]]) -> None:
    host_told = told["all1"]
    unit = "infbox-extra.service"
    assert host_told["stack"]["stack_host_units"][unit] == [
        "/etc/infbox/extra.yml",
        f"/etc/systemd/system/{unit}",
    ]
    assert unit in host_told["backup"]["backup_restore_units"]
    assert "/var/lib/infbox/extra" in host_told["backup"]["backup_paths"]
    targets = host_told["monitoring"]["monitoring_targets"]
    assert {"address": "127.0.0.1:28099", "job": "extra"} in targets
    assert '"127.0.0.1:28099"' in host_told["monitoring"]["prometheus.yml.j2"]
    claim = {"address": "127.0.0.1", "port": 28099, "purpose": "more"}
    assert claim in host_told["preflight"]["preflight_ports"]
    assert {"name": "infbox-extra", "uid": 64499} in host_told["preflight"]["preflight_users"]
    uninstall = host_told["uninstall"]
    assert "infbox-extra" in uninstall["uninstall_users"]
    assert "/etc/extra.conf" in uninstall["uninstall_files"]
    assert "/etc/infbox/extra" in uninstall["uninstall_data_directories"]
    assert "extra-tools" in uninstall["uninstall_packages"]
    assert "extra-tools" in host_told["bundle"]["bundle_packages"]


def test_a_container_with_a_row_is_in_every_list(told: dict[str, dict[str, Any]]) -> None:
    host_told = told["all1"]
    assert released(host_told) == ["lmcache", "vllm", "valkey", "extra"]
    reference = f"extra/extra:1@{EXTRA_IMAGE['digest']}"
    assert "extra-pages" in host_told["stack"]["stack_services"]
    assert host_told["bundle"]["bundle_images"]["extra"].endswith(reference)
    assert [each for each in host_told["images"]["images_list"] if each["name"] == "extra"]
    assert [each for each in host_told["uninstall"]["uninstall_images"] if each.endswith(reference)]
    page = {"path": "/extra", "upstream": "127.0.0.1:28098"}
    assert page in host_told["caddy"]["caddy_consoles"]
    assert "127.0.0.1:28098" in host_told["caddy"]["Caddyfile.j2"]


def test_a_worker_has_what_computes_and_is_watched(told: dict[str, dict[str, Any]]) -> None:
    worker = told["worker"]
    assert released(worker) == ["lmcache", "vllm", "extra"]
    assert worker["stack"]["stack_services"][:2] == ["lmcache", "vllm"]
    assert "caddy" not in worker["stack"]["stack_services"]
    jobs = [target["job"] for target in worker["monitoring"]["monitoring_targets"]]
    assert jobs == ["lmcache", "caddy", "extra"]
    purposes = [port["purpose"] for port in worker["preflight"]["preflight_ports"]]
    assert "vLLM" not in purposes and "the hosts of one model" in purposes


def test_the_documents_name_every_port() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert [number for number in numbers() if not found(number, page)] == []


def test_no_other_file_of_the_wiring_has_a_port_s_number() -> None:
    files = [*(GROUP_VARS / "wiring").glob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    hits = {
        file.name: places
        for file in files
        for number in numbers()
        if number > 443 and (places := found(number, file.read_text()))
    }
    assert hits == {}


def test_infbox_names_are_settings_or_what_a_run_is_told() -> None:
    """Whatever else group_vars makes begins with an underscore, which nobody sets."""
    files = [*GROUP_VARS.rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    text = "\n".join(file.read_text() for file in files)
    settings = yaml.safe_load((GROUP_VARS / "settings.yml").read_text())
    known = {f"infbox_{name}" for name in settings["_infbox_settings"]}
    known |= set(settings["_infbox_run_options"])
    made = set(re.findall(r"(?m)^\s*(infbox_\w+):", text)) - set(
        settings["_infbox_renamed_settings"]
    )
    assert made == {"infbox_host_info"}, "a module, and no variable"
    read = set(re.findall(r"(?<![\w/.-])(infbox_\w+)(?= \| default)", text))
    # Of playbooks without preflight: nobody would refuse them.
    without = "infbox_(restore|backup_check|status_output|usage)"
    read -= {name for name in read if re.match(without, name)}
    assert read - known == set()


def test_a_renamed_variable_has_its_new_name_and_no_longer_the_old_one() -> None:
    settings = yaml.safe_load((GROUP_VARS / "settings.yml").read_text())
    names = {f"infbox_{name}" for name in settings["_infbox_settings"]}
    for file in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        specs = yaml.safe_load(file.read_text())["argument_specs"]
        names |= {name for entry in specs.values() for name in entry.get("options", {})}
    renamed = settings["_infbox_renamed_settings"]
    assert set(renamed.values()) <= names
    assert not set(renamed) & names
