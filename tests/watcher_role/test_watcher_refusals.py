"""What the watcher role refuses before it changes anything."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from infbox.kinds import FileKind

from tests.stack.refusals import ROOT, refusals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watcher")
    for name, mode in {"open": 0o755, "closed": 0o700, "group": 0o750}.items():
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    (folder / "file").touch()
    (folder / "open" / "inner").mkdir()
    (folder / "link").symlink_to(folder / "open" / "inner")
    return folder


@pytest.fixture(scope="module")
def shown() -> Iterator[Path]:
    """A closed folder that is hidden from the watcher by its modes alone, unlike those in /tmp."""
    with tempfile.TemporaryDirectory(prefix="infbox-test-", dir="/var/lib") as folder:
        (Path(folder) / "open").mkdir()
        yield Path(folder)


def workspace(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "shop", "path": str(folder / "open"), "budget": 1000, **changes}


SIGN_IN = {
    "watcher_sign_in_issuer": "https://sso.example.org/",
    "watcher_sign_in_client_id": "infbox",
    "watcher_sign_in_client_secret": "secret",
    "watcher_sign_in_groups": ["coders"],
    "watcher_sign_in_origin": "https://gpu1.example.org",
}

REMOTES = "/var/lib/infbox/workspaces"
FOLLOWED = {"path": f"{REMOTES}/shop"}


def followed(url: str, **changes: Any) -> dict[str, Any]:
    return {"watcher_remotes": [{"name": "shop", "url": url, **changes}]}


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "a_name_twice": ([{}, {}], {}, 'watcher_workspaces has the names "shop", "shop".'),
    "a_name_with_a_slash": ([{"name": "a/b"}], {}, 'has the names "a/b"'),
    "no_budget": ([{"budget": 0}], {}, "The workspace shop has the path"),
    "a_budget_beyond_the_model": (
        [{"budget": 5000}],
        {"watcher_engine_max_model_len": 4096},
        "a budget of 5000 tokens. The path must be absolute",
    ),
    "a_base_that_is_none": (
        [{"base": "shap"}],
        {},
        "The workspace shop cannot have shap as its base.",
    ),
    "a_base_of_a_base": (
        [
            {},
            {"name": "a", "base": "shop", "budget": 1250},
            {"name": "b", "base": "a", "budget": 2000},
        ],
        {},
        "The workspace b cannot have a as its base.",
    ),
    "a_base_of_the_same_budget": (
        [{}, {"name": "a", "base": "shop"}],
        {},
        "The workspace a cannot have shop as its base. Name another workspace of",
    ),
    "something_else_than_a_base_that_can_be_one": (
        [{}, {"name": "a", "base": "shop", "budget": 1250}],
        {"watcher_poll_seconds": 0},
        "watcher_poll_seconds is 0.",
    ),
    "a_base_of_another_model": (
        [{"model": "other"}, {"name": "a", "base": "shop", "budget": 1250, "model": "coder"}],
        {},
        "The workspace a cannot have shop as its base.",
    ),
    "a_balancer_with_a_path": (
        [{}],
        {"watcher_replicas_balancer": "http://127.0.0.1:8015/x"},
        'watcher_replicas_balancer is "http://127.0.0.1:8015/x" and watcher_replicas_host is',
    ),
    "a_relative_path": ([{"path": "shop"}], {}, 'has the path "shop"'),
    "a_path_with_a_space": ([{"path": "/srv/my shop"}], {}, 'has the path "/srv/my shop"'),
    "no_folder": ([{"path": "{}/missing"}], {}, "The workspace shop is no directory: {}/missing."),
    "a_file": ([{"path": "{}/file"}], {}, "The workspace shop is no directory: {}/file."),
    "a_closed_folder": (
        [{"path": "{}/closed"}],
        {},
        "The watcher may not read the workspace shop: {}/closed has mode 0700",
    ),
    "a_folder_of_another_group": (
        [{"path": "{}/group"}],
        {"watcher_groups": ["nogroup"]},
        "The watcher may not read the workspace shop: {}/group has mode 0750 and group root.",
    ),
    "a_folder_in_a_closed_one": (
        [{"path": "{shown}/open"}],
        {},
        "The watcher may not read the workspace shop: {shown}/open has mode 0755",
    ),
    "a_group_that_is_not_there": (
        [{}],
        {"watcher_groups": ["nobodys"]},
        "There is no group nobodys on this host.",
    ),
    "a_workspace_inside_another": (
        [{}, {"name": "inner", "path": "{}/open/inner"}],
        {},
        "The workspace inner, {}/open/inner, is inside the workspace shop, {}/open.",
    ),
    "a_workspace_inside_another_by_a_link": (
        [{"name": "inner", "path": "{}/link"}, {}],
        {},
        "The workspace inner, {}/open/inner, is inside the workspace shop, {}/open.",
    ),
    "nobody": ([{}], {"watcher_users": []}, "List at least one user"),
    "a_user_twice": ([{}], {"watcher_users": ["a", "a"]}, "each once"),
    "a_user_that_is_a_path": (
        [{}],
        {"watcher_users": ["../../a"]},
        'watcher_users is ["../../a"].',
    ),
    "a_limit_for_nobody": (
        [{}],
        {"watcher_user_limits": {"bob": {}}},
        "watcher_user_limits names bob, and watcher_users has only team.",
    ),
    "a_limit_of_another_kind": (
        [{}],
        {"watcher_user_limits": {"team": {"rate": 5}}},
        'watcher_user_limits has {"rate": 5} for team.',
    ),
    "a_limit_that_is_no_number": (
        [{}],
        {"watcher_user_limits": {"team": {"requests_per_minute": "many"}}},
        'watcher_user_limits has {"requests_per_minute": "many"} for team.',
    ),
    "a_limit_below_nothing": (
        [{}],
        {"watcher_user_limits": {"team": {"concurrent_requests": -1}}},
        'watcher_user_limits has {"concurrent_requests": -1} for team.',
    ),
    "a_limit_of_tokens_that_is_no_number": (
        [{}],
        {"watcher_user_limits": {"team": {"tokens_per_day": "5M"}}},
        'watcher_user_limits has {"tokens_per_day": "5M"} for team.',
    ),
    "a_limit_of_a_group_that_is_none": (
        [{}],
        {"watcher_sign_in_group_limits": {"store": {"requests_per_minute": 5}}},
        'watcher_sign_in_group_limits has {"requests_per_minute": 5} for store.',
    ),
    "shared_limits_without_a_port": (
        [{}],
        {"watcher_shared_limits": "10.0.0.5"},
        "watcher_shared_limits is 10.0.0.5. Give the address of a Valkey as HOST:PORT",
    ),
    "a_last_day_that_is_none": (
        [{}],
        {"watcher_user_expiries": {"team": "soon"}},
        'watcher_user_expiries is {"team": "soon"}',
    ),
    "workspaces_for_nobody": (
        [{}],
        {"watcher_user_workspaces": {"bob": ["shop"]}},
        "watcher_user_workspaces names bob, and watcher_users has only team.",
    ),
    "a_workspace_that_is_two": (
        [{}],
        {"watcher_user_workspaces": {"team": ["shop,web"]}},
        'has "shop,web". Give lists of names',
    ),
    "traces_with_a_path": (
        [{}],
        {"watcher_traces_url": "http://collector:4318/v1/traces"},
        "Give http://HOST:PORT, without a path",
    ),
    "held_for_less_than_no_time": (
        [{}],
        {"watcher_gateway_request_queue_timeout_seconds": -1},
        "watcher_gateway_request_queue_timeout_seconds is -1.",
    ),
    "less_than_no_space_for_conversations": (
        [{}],
        {"watcher_gateway_conversations_mb": -1},
        "watcher_gateway_conversations_mb is -1.",
    ),
    "less_than_no_memory_for_responses": (
        [{}],
        {"watcher_gateway_responses_mb": -1},
        "watcher_gateway_responses_mb is -1.",
    ),
    "less_than_nothing_found_for_a_question": (
        [{}],
        {"watcher_gateway_retrieve_tokens": -1},
        "watcher_gateway_retrieve_tokens is -1.",
    ),
    "a_weight_of_a_kind_that_there_is_not": (
        [{}],
        {"watcher_pack_weights": {"doc": 1}},
        'watcher_pack_weights is {"doc": 1} and watcher_retrieval_weights is',
    ),
    "a_weight_of_nothing": ([{}], {"watcher_retrieval_weights": {"docs": 0}}, 'is {"docs": 0}.'),
    "a_weight_in_words": ([{}], {"watcher_pack_weights": {"docs": "1"}}, 'is {"docs": "1"} and'),
    "a_disk_that_is_no_folder": ([{}], {"watcher_disks": ["var"]}, 'watcher_disks is ["var"].'),
    "an_exporter_without_a_scheme": (
        [{}],
        {"watcher_dcgm_url": "localhost:9400"},
        'watcher_dcgm_url is "localhost:9400"',
    ),
    "an_issuer_without_tls": (
        [{}],
        {**SIGN_IN, "watcher_sign_in_issuer": "http://sso.example.org"},
        "watcher_sign_in_issuer is http://sso.example.org, and it or a related setting",
    ),
    "a_sign_in_without_a_group": (
        [{}],
        {**SIGN_IN, "watcher_sign_in_groups": []},
        "at least one group in watcher_sign_in_groups",
    ),
    "a_sign_in_without_a_secret": (
        [{}],
        {**SIGN_IN, "watcher_sign_in_client_secret": ""},
        "watcher_sign_in_client_id and _client_secret",
    ),
    "a_session_that_is_idle_for_longer_than_it_lasts": (
        [{}],
        {**SIGN_IN, "watcher_sign_in_idle_minutes": 721},
        "watcher_sign_in_session_hours is 12 and watcher_sign_in_idle_minutes is 721.",
    ),
    "a_remote_of_no_workspace": (
        [{"name": "other"}],
        followed("https://forge.example/shop.git"),
        f"Give a workspace of this name whose path is {REMOTES}/shop",
    ),
    "a_remote_with_a_password": (
        [FOLLOWED],
        followed("https://me:pa55@forge.example/shop.git"),
        "watcher_remotes has shop, and it cannot be followed.",
    ),
    "a_remote_that_is_polled_all_the_time": (
        [FOLLOWED],
        followed("https://forge.example/shop.git", every=1),
        "`every` from 5 on",
    ),
    "a_remote_over_ssh_without_a_key": (
        [FOLLOWED],
        followed("ssh://git@forge.example/shop.git"),
        "watcher_remotes_secrets.shop.key or watcher_remotes_known_hosts is empty.",
    ),
    "a_remote_over_ssh_to_a_host_that_nobody_knows": (
        [FOLLOWED],
        {
            **followed("ssh://git@forge.example/shop.git"),
            "watcher_remotes_secrets": {"shop": {"key": "x"}},
        },
        "ssh-keyscan forge.example, once you have verified",
    ),
    "never_to_poll": ([{}], {"watcher_poll_seconds": 0}, "watcher_poll_seconds is 0."),
    "a_user_number_taken": ([{}], {"watcher_uid": 1}, "The user number 1 belongs to daemon"),
    "no_source": (
        [{}],
        {"watcher_source_dir": "/nonexistent"},
        "watcher_source_dir is /nonexistent, which has no requirements.txt.",
    ),
}


@pytest.fixture(scope="module")
def said(folder: Path, shown: Path) -> dict[str, str]:
    cases = {}
    for name, (changes, variables, _) in CASES.items():
        workspaces = [workspace(folder, **change) for change in changes]
        for item in workspaces:
            item["path"] = placed(item["path"], folder, shown)
        cases[name] = {**variables, "watcher_workspaces": workspaces}
    return refusals(folder, "watcher", cases)


@pytest.mark.skipif(os.geteuid() != 0, reason="the closed folders must be root's")
@pytest.mark.parametrize("case", CASES)
def test_it_refuses(said: dict[str, str], folder: Path, shown: Path, case: str) -> None:
    assert placed(CASES[case][2], folder, shown) in said[case]


def placed(text: str, folder: Path, shown: Path) -> str:
    """Fill in where the folders are."""
    return text.replace("{}", str(folder)).replace("{shown}", str(shown))


def test_the_role_knows_the_kinds_of_files_that_the_watcher_knows() -> None:
    inner = yaml.safe_load((ROOT / "roles/watcher/vars/main.yml").read_text())
    assert set(inner["_watcher_file_kinds"]) == {kind.value for kind in FileKind}
