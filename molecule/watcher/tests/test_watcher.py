"""The watcher role on a lab host with source trees and, as on a first run, no engine."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from tests.rerun import converge

SCENARIO = Path(__file__).resolve().parent.parent
UNITS = ("infbox-watcher", "infbox-gateway", "infbox-keys", "infbox-signin")
REMOTES = "infbox-remotes"
FOLLOWED = "/var/lib/infbox/workspaces/followed"
SIGN_IN = ("/etc/infbox/sign-in.yml", "/etc/systemd/system/infbox-signin.service")
CLIENT = "/etc/infbox/sign-in/client-secret"
STATE = "/var/lib/infbox/watcher"
CONVERSATIONS = f"{STATE}/conversations"
KEYS = "/etc/infbox/secrets/api-keys"
WORKSPACES = "http://127.0.0.1:8010/v1/workspaces"
DIGESTS = "/etc/infbox/keys/users.json"
INSTALLED = "/opt/infbox/watcher"
JOURNAL = "journalctl --no-pager --output=cat --lines=60 --unit='infbox-*'"


@pytest.mark.parametrize("unit", [*UNITS, REMOTES])
def test_the_services_run_and_start_at_boot(host: Host, unit: str) -> None:
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled


def test_systemd_understands_every_line_of_the_units(host: Host) -> None:
    assert "Failed to parse" not in host.run("journalctl --boot --no-pager _PID=1").stdout


@pytest.mark.parametrize("unit", UNITS)
def test_they_run_as_the_infbox_user(host: Host, unit: str) -> None:
    status = host.check_output(f"cat /proc/{show(host, unit, 'MainPID')}/status")
    assert re.search(r"^Uid:\t64430\t64430\t64430\t64430$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)


@pytest.mark.parametrize("unit", [*UNITS, REMOTES])
def test_systemd_finds_little_to_harden(host: Host, unit: str) -> None:
    verdict = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -1")
    score = re.search(r"exposure level for .*: ([0-9.]+)", verdict)
    assert score, verdict
    assert float(score[1]) <= 2.0


def test_the_trees_are_followed_without_an_engine(host: Host) -> None:
    workspaces = status(host)["workspaces"]
    assert sorted(workspaces) == ["followed", "next", "notes", "part", "shop", "tools"]
    for workspace in workspaces.values():
        assert workspace["error"] is None
        assert workspace["unwatched_directories"] == workspace["polled_directories"] == 0
        assert workspace["unreadable_paths"] == 0


def test_a_tree_has_the_files_that_git_knows(host: Host) -> None:
    # The rules of `part` lie above it, the repository of `next` beside it.
    files = {name: seen["files"] for name, seen in status(host)["workspaces"].items()}
    assert files == {"shop": 2, "tools": 2, "notes": 2, "next": 2, "part": 1, "followed": 1}


def test_the_configuration_has_what_was_set(host: Host) -> None:
    settings = yaml.safe_load(host.check_output("cat /etc/infbox/watcher.yml"))
    assert settings["engine"]["lmcache"] == "http://127.0.0.1:8020"
    assert settings["engine"]["tokenizer"] == "/home/dev/model/tokenizer.json"
    assert settings["watcher"]["poll_seconds"] == 7
    assert settings["gateway"]["request_queue_timeout_seconds"] == 5
    assert settings["gateway"]["conversations_mb"] == 512
    assert settings["gateway"]["strip_volatile"] is True
    assert settings["gateway"]["tools"] is True
    assert settings["gateway"]["retrieve"] is True
    assert settings["gateway"]["retrieve_tokens"] == 4000
    assert settings["weights"] == {"pack": {"docs": 0.2}, "retrieval": {"tests": 1}}
    models = {item["name"]: item.get("model") for item in settings["workspaces"]}
    assert models["notes"] == pack(host, "notes")["model"] == "coder-small"
    assert models["shop"] is None
    assert pack(host, "shop")["model"] == "coder"


def test_a_saved_file_is_in_the_pack(host: Host) -> None:
    before = pack(host, "shop")
    assert "return sum(prices)" in before["text"]
    assert "secret = 1" not in before["text"]
    host.check_output("echo 'VAT = 19  # percent' > /home/dev/shop/vat.py")
    assert wait_for(lambda: "VAT = 19" in pack(host, "shop")["text"])
    after = pack(host, "shop")
    assert after["version"] > before["version"]
    assert after["text"].startswith(before["text"][: len(before["text"]) // 2])
    assert status(host)["workspaces"]["shop"]["files"] == 3


def test_the_gateway_lists_the_workspaces(host: Host) -> None:
    listing = json.loads(get(host, WORKSPACES, "alice"))
    assert "shop" in json.dumps(listing)


def test_the_gateway_refuses_who_comes_without_a_user(host: Host) -> None:
    script = "import sys,urllib.request as r; r.urlopen(sys.argv[1], timeout=5)"
    assert "HTTP Error 401" in host.run("python3 -c %s %s", script, WORKSPACES).stderr


def test_everybody_on_the_host_has_the_command_that_asks(host: Host) -> None:
    program = f"{INSTALLED}/venv/bin/infbox"
    assert host.check_output("readlink /usr/local/bin/infbox") == program
    assert "infbox ask" in host.check_output("runuser -u nobody -- infbox ask --help")


def test_the_gateway_keeps_conversations_from_within_its_unit(host: Host) -> None:
    # All is written down before the engine is asked, which is away here.
    ask = (
        "import json, urllib.request as r, urllib.error as e\n"
        "body = {'model': 'coder@shop', 'messages': [{'role': 'user', 'content': 'Why?'}]}\n"
        "told = {'Content-Type': 'application/json', 'X-Infbox-User': 'alice'}\n"
        "url = 'http://127.0.0.1:8010/v1/chat/completions'\n"
        "try: r.urlopen(r.Request(url, json.dumps(body).encode(), told), timeout=60)\n"
        "except e.HTTPError as error: print(error.code)\n"
    )
    assert host.check_output("python3 -c %s", ask) == "503"
    file = f"{CONVERSATIONS}/conversations.db"
    count = (
        "import sqlite3, sys\n"
        "kept = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
        "print(all(kept.execute(f'SELECT count(*) FROM {name}').fetchone()[0]"
        " for name in ('nodes', 'records', 'packs')))\n"
    )
    assert wait_for(lambda: host.check_output("python3 -c %s %s", count, file) == "True")
    assert modes(host, CONVERSATIONS) == "750 infbox infbox"
    assert modes(host, file) == "640 infbox infbox"
    log = host.check_output("journalctl --no-pager --output=cat --unit=infbox-gateway")
    assert "conversations-not-kept" not in log
    for folder in (STATE, f"{STATE}/packs"):
        said = inside(host, "infbox-gateway", f"touch {folder}/new", root=True)
        assert "Read-only file system" in said


def test_the_gateway_can_keep_usage_and_root_can_read_it(host: Host) -> None:
    assert modes(host, f"{STATE}/usage") == "750 infbox infbox"
    said = inside(
        host, "infbox-gateway", f"touch {STATE}/usage/new && rm {STATE}/usage/new && echo kept"
    )
    assert "kept" in said
    told = host.check_output(f"{INSTALLED}/venv/bin/infbox-gateway usage --json")
    assert isinstance(json.loads(told), list)


def test_none_listens_beyond_loopback(host: Host) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header")
    ours = {line.split()[3] for line in listening.splitlines() if ":80" in line}
    assert ours == {f"127.0.0.1:{port}" for port in (8010, 8011, 8012, 8013, 8014)}


def test_keys_are_root_s_and_what_serves_knows_only_their_digests(host: Host) -> None:
    assert modes(host, "/etc/infbox/secrets") == modes(host, KEYS) == "700 root root"
    assert modes(host, "/etc/infbox/keys") == "750 root infbox"
    assert modes(host, DIGESTS) == "640 root infbox"
    for user in ("alice", "bob"):
        assert modes(host, f"{KEYS}/{user}") == "600 root root"
        assert host.run("grep -rF %s /etc/infbox/keys %s", key(host, user), STATE).rc == 1
    assert "Permission denied" in inside(host, "infbox-keys", f"ls {KEYS}")


def test_a_key_says_who_asks_and_what_he_may_use(host: Host) -> None:
    assert authorize(host, key(host, "alice")) == "200 alice 4"
    assert authorize(host, key(host, "bob")) == "200 bob 0"
    assert authorize(host, "sk-infbox-wrong") == "401 None None"


def test_a_rotated_key_holds_at_once_and_nothing_is_restarted(host: Host) -> None:
    before, pid = key(host, "bob"), show(host, "infbox-keys", "MainPID")
    said = host.check_output(f"{INSTALLED}/venv/bin/infbox-keys rotate bob")
    assert said == f"bob has another key, in {KEYS}/bob. The one before has ended."
    assert authorize(host, before) == "401 None None"
    assert authorize(host, key(host, "bob")) == "200 bob 0"
    assert show(host, "infbox-keys", "MainPID") == pid


def test_the_sign_in_alone_has_its_client_s_secret(host: Host) -> None:
    assert modes(host, CLIENT) == "600 infbox infbox"
    assert modes(host, "/etc/infbox/sign-in") == "750 root infbox"
    assert modes(host, SIGN_IN[0]) == "640 root infbox"
    secret = host.check_output(f"cat {CLIENT}")
    assert inside(host, "infbox-signin", f"cat {CLIENT}").strip() == secret
    for unit in UNITS[:3]:
        assert "ermission denied" in inside(host, unit, f"cat {CLIENT}")
    # Named by its file: what looks for it must not have it in its own arguments.
    look = f"grep -rlFf {CLIENT} /proc/[0-9]*/cmdline /proc/[0-9]*/environ /etc/systemd {STATE}"
    assert host.run(look).stdout == ""


def test_the_sign_in_answers_and_says_that_its_provider_is_away(host: Host) -> None:
    ask = "import sys,urllib.request as r,urllib.error as e\ntry: a=r.urlopen(sys.argv[1])\n"
    ask += "except e.HTTPError as error: a=error\nprint(a.status, a.read().decode())"
    said = host.check_output("python3 -c %s http://127.0.0.1:8013/sign-in", ask)
    assert said.startswith("503 ")
    assert "The provider is not available" in said
    assert host.check_output("python3 -c %s http://127.0.0.1:8013/check", ask).startswith("401 ")


def test_what_follows_remotes_has_a_user_of_its_own_and_may_nothing_else(host: Host) -> None:
    told = host.check_output(f"cat /proc/{show(host, REMOTES, 'MainPID')}/status")
    assert re.search(r"^Uid:\t64433\t64433\t64433\t64433$", told, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", told, re.MULTILINE)
    for folder in ("/etc", "/usr", STATE, "/srv/tools", "/home"):
        said = inside(host, REMOTES, f"touch {folder}/new", root=True)
        assert "Read-only file system" in said
    assert modes(host, FOLLOWED) == "2750 infbox-remotes infbox"
    assert modes(host, f"{FOLLOWED}/pushed.py") == "640 infbox-remotes infbox"
    assert modes(host, "/etc/infbox/remotes/followed/key") == "400 infbox-remotes infbox-remotes"
    for unit in UNITS:
        assert "ermission denied" in inside(host, unit, "cat /etc/infbox/remotes/followed/key")


def test_what_is_pushed_is_in_the_pack(host: Host) -> None:
    assert "def pushed" in pack(host, "followed")["text"]
    push(host, "polled")
    assert wait_for(lambda: "polled" in pack(host, "followed")["text"], 30)


def test_a_forge_that_calls_is_answered_if_it_knows_the_secret(host: Host) -> None:
    script = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "call = r.Request('http://127.0.0.1:8014/hooks/git/followed', b'{}',"
        " {'X-Gitlab-Token': sys.argv[1]})\n"
        "try: print(r.urlopen(call, timeout=5).status)\n"
        "except e.HTTPError as error: print(error.code)\n"
    )
    assert host.check_output("python3 -c %s a-secret-of-the-webhook", script) == "202"
    assert host.check_output("python3 -c %s another", script) == "401"


def test_a_kill_in_the_middle_is_made_good(host: Host) -> None:
    host.check_output(f"touch {FOLLOWED}/.git/index.lock && systemctl kill -s KILL {REMOTES}")
    push(host, "after_the_kill")
    assert wait_for(lambda: "after_the_kill" in pack(host, "followed")["text"], 180)


@dataclass(frozen=True)
class Before:
    """What was there before something was taken off.

    Attributes:
        keys: of the users, by their names.
        pid: the process of the key service.
        said: what the run said that took it off.
    """

    keys: dict[str, str]
    pid: str
    said: str


@pytest.fixture(scope="class")
def before(host: Host) -> Iterator[Before]:
    """Take off a user, the sign-in and the remotes, and put them back afterwards.

    In one run, since each of the three leaves the others alone.
    """
    keys = {user: key(host, user) for user in ("alice", "bob")}
    pid = show(host, "infbox-keys", "MainPID")
    given = yaml.safe_load(host.check_output("cat /etc/infbox/watcher.yml"))["workspaces"]
    status, said = converge(
        watcher_users=["bob"],
        watcher_user_limits={},
        watcher_sign_in_issuer="",
        watcher_remotes=[],
        watcher_workspaces=[workspace for workspace in given if workspace["name"] != "followed"],
    )
    assert status == 0, said
    yield Before(keys, pid, said)
    assert converge()[0] == 0  # as the other tests expect it


class TestTakenOff:
    """What a run leaves of what its settings do not name any more."""

    def test_a_user_taken_off_the_list_is_refused(self, host: Host, before: Before) -> None:
        assert not any(value in before.said for value in before.keys.values())
        # Beside it is the record that her key ended.
        assert sorted(host.file(KEYS).listdir()) == ["_labelled", "bob"]
        assert authorize(host, before.keys["alice"]) == "401 None None"
        assert authorize(host, before.keys["bob"]) == "200 bob 0"
        assert show(host, "infbox-keys", "MainPID") == before.pid

    def test_a_sign_in_that_is_switched_off_is_gone(self, host: Host, before: Before) -> None:
        assert show(host, "infbox-signin", "LoadState") == "not-found"
        for path in (*SIGN_IN, CLIENT):
            assert not host.file(path).exists
        assert show(host, "infbox-keys", "MainPID") == before.pid

    @pytest.mark.usefixtures("before")
    def test_remotes_that_are_followed_no_more_are_gone(self, host: Host) -> None:
        assert show(host, REMOTES, "LoadState") == "not-found"
        for path in (
            "/etc/infbox/remotes.yml",
            "/etc/infbox/remotes",
            "/var/lib/infbox/workspaces",
        ):
            assert not host.file(path).exists
        assert not host.user("infbox-remotes").exists


def test_what_was_taken_off_and_is_named_again_runs(host: Host) -> None:
    for unit in ("infbox-signin", REMOTES):
        assert host.service(unit).is_running


def test_the_watcher_sees_the_trees_and_nothing_else_of_people(host: Host) -> None:
    seen = inside(host, "infbox-watcher", "ls -A /home /home/dev /root")
    shown = ["library", "model", "next", "shop", "whole"]
    assert seen.split() == ["/home:", "dev", "/home/dev:", *shown, "/root:", "notes"]
    assert inside(host, "infbox-watcher", "ls -A /home/dev/library /home/dev/model").split() == [
        *("/home/dev/library:", ".git"),
        *("/home/dev/model:", "tokenizer.json"),
    ]
    assert "Permission denied" in inside(host, "infbox-watcher", "ls /etc/infbox/secrets /etc/ssh")


WRITTEN_NOWHERE = (
    *("/home/dev/shop", "/home/dev/library/.git", "/home/dev/whole/part", "/root/notes"),
    *("/srv/tools", "/etc", "/usr", INSTALLED, "/var/lib/infbox"),
)


@pytest.mark.parametrize("folder", WRITTEN_NOWHERE)
def test_the_watcher_can_write_nowhere_but_in_its_state(host: Host, folder: str) -> None:
    # As root, so that the mounts and not the modes are asked.
    said = inside(host, "infbox-watcher", f"touch {folder}/new", root=True)
    assert "Read-only file system" in said


def test_the_watcher_sees_on_which_file_system_a_tree_is(host: Host) -> None:
    # Its view of the file system is its own; whether a folder must be polled is decided by it.
    mounts = host.check_output(f"cat /proc/{show(host, 'infbox-watcher', 'MainPID')}/mountinfo")
    kinds = {line.split()[4]: line.split(" - ")[1].split()[0] for line in mounts.splitlines()}
    for place in ("/", "/home/dev/shop", "/root/notes"):
        real = host.check_output(f"stat --file-system --format=%T {place}").replace("fs", "")
        assert kinds[place].startswith(real), (place, kinds[place])
    assert kinds["/home"] == "tmpfs"


def test_files_have_their_owners(host: Host) -> None:
    for path, expected in {
        "/etc/infbox": "755 root root",
        "/etc/infbox/watcher.yml": "640 root infbox",
        "/var/lib/infbox": "755 root root",
        STATE: "750 infbox infbox",
        f"{INSTALLED}/venv/bin/infbox-watch": "755 root root",
    }.items():
        assert host.check_output(f"stat -L --format '%a %U %G' {path}") == expected
    assert host.check_output(f"find {INSTALLED} -not -user root -o -perm /022 -not -type l") == ""


def test_the_limits_are_noted_for_the_next_boot(host: Host) -> None:
    settings = host.file("/etc/sysctl.d/60-infbox-watcher.conf").content_string
    now = int(host.check_output("cat /proc/sys/fs/inotify/max_user_watches"))
    assert f"fs.inotify.max_user_watches = {max(now, 524288)}" in settings


def test_the_gateway_serves_the_status_page_from_within_its_unit(host: Host) -> None:
    assert "<title>infbox" in get(host, "http://127.0.0.1:8010/")
    status = json.loads(get(host, "http://127.0.0.1:8010/status"))
    states = {service["name"]: service["state"] for service in status["services"]}
    assert (states["Key service"], states["Watcher"], states["Gateway"]) == ("healthy",) * 3
    assert (states["Caddy"], states["vLLM"]) == ("down", "down")
    assert status["served"]["preset"] == "dev32"
    assert status["disks"][0]["path"] == "/var/lib/infbox"
    assert 0 < status["disks"][0]["used"] < status["disks"][0]["size"]


def test_agents_read_by_tools_a_tree_that_the_gateway_itself_cannot_see(host: Host) -> None:
    assert "No such file" in inside(host, "infbox-gateway", "ls /home/dev/shop", root=True)
    assert wait_for(lambda: "sum(prices)" in call(host, "read", path="prices.py"))
    assert "1\tdef total(prices):" in call(host, "search", query="total", kind="symbol")
    assert "ignored.py" not in call(host, "outline")
    assert "no file ignored.py" in call(host, "read", path="ignored.py")
    host.check_output("echo 'TOLL = 7' > /home/dev/shop/toll.py")
    assert wait_for(lambda: "toll.py:1" in call(host, "references", name="TOLL"))


def test_the_gateway_stays_while_the_watcher_is_restarted(host: Host) -> None:
    before = show(host, "infbox-gateway", "MainPID")
    host.check_output("systemctl stop infbox-watcher")
    assert "shop" in get(host, WORKSPACES, "alice")
    assert "cannot be read at present" in call(host, "outline")
    host.check_output("systemctl start infbox-watcher")
    assert show(host, "infbox-gateway", "MainPID") == before


@pytest.fixture
def impatient(host: Host) -> Iterator[None]:
    """Let the watchdog wait for three seconds in place of a minute."""
    folder = "/run/systemd/system/infbox-watcher.service.d"
    restart = "systemctl daemon-reload && systemctl restart infbox-watcher"
    assert show(host, "infbox-watcher", "WatchdogUSec") == "1min"
    setting = "[Service]\nWatchdogSec=3\n"
    host.check_output(f"mkdir -p {folder} && printf %s > {folder}/soon.conf && {restart}", setting)
    yield
    host.check_output(f"rm -r {folder} && {restart}")


@pytest.mark.usefixtures("impatient")
def test_the_watchdog_is_fed(host: Host) -> None:
    pid = show(host, "infbox-watcher", "MainPID")
    fed: set[str] = set()

    def is_fed() -> bool:
        fed.add(show(host, "infbox-watcher", "WatchdogTimestampMonotonic"))
        return len(fed) > 3

    assert wait_for(is_fed, 120)
    assert show(host, "infbox-watcher", "MainPID") == pid


@pytest.mark.usefixtures("impatient")
def test_a_watcher_that_hangs_is_restarted(host: Host) -> None:
    before = show(host, "infbox-watcher", "MainPID")
    host.check_output(f"kill -STOP {before}")
    assert is_another(host, before)
    assert "Watchdog timeout" in host.check_output("journalctl --lines=40 --unit=infbox-watcher")


def test_what_answers_requests_is_restarted_where_it_hangs(host: Host) -> None:
    folders = [f"/run/systemd/system/{unit}.service.d" for unit in UNITS[1:]]
    host.check_output(f"mkdir -p {' '.join(folders)}")
    for folder in folders:
        setting = "[Service]\nTimeoutAbortSec=1\n"
        host.check_output(f"printf %s > {folder}/soon.conf", setting)
    host.check_output(f"systemctl daemon-reload && systemctl restart {' '.join(UNITS[1:])}")
    before = {unit: show(host, unit, "MainPID") for unit in UNITS[1:]}
    time.sleep(12)  # longer than the watchdogs wait: they are fed, on a busy machine too
    assert {unit: show(host, unit, "MainPID") for unit in UNITS[1:]} == before
    host.check_output(f"kill -STOP {' '.join(before.values())}")
    for unit, process in before.items():
        assert is_another(host, process, unit)
    host.check_output(f"rm -r {' '.join(folders)} && systemctl daemon-reload")
    host.check_output(f"systemctl restart {' '.join(UNITS[1:])}")
    assert show(host, "infbox-keys", "WatchdogUSec") == "10s"


@pytest.mark.usefixtures("impatient")
def test_a_watcher_that_hears_of_no_writes_is_restarted(host: Host) -> None:
    before = show(host, "infbox-watcher", "MainPID")
    host.check_output(f"mv {STATE}/sentinel/shop {STATE}/sentinel/elsewhere")
    assert is_another(host, before)
    host.check_output(f"rm -r {STATE}/sentinel/elsewhere")
    assert host.file(f"{STATE}/sentinel/shop").is_directory


@pytest.mark.parametrize("unit", UNITS[:2])
def test_a_configuration_that_cannot_be_used_ends_a_service_visibly(host: Host, unit: str) -> None:
    file = "/etc/infbox/watcher.yml"
    host.check_output(f"cp --preserve {file} /root/kept.yml && echo 'speed: high' >> {file}")
    host.run(f"systemctl restart {unit}")
    assert wait_for(lambda: show(host, unit, "ActiveState") == "failed")
    time.sleep(7)  # longer than it waits before another attempt
    state = [show(host, unit, name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")]
    said = host.check_output(f"journalctl --lines=20 --output=cat --unit={unit}")
    host.check_output(f"cp --preserve /root/kept.yml {file} && systemctl start {unit}")
    assert state == ["failed", "2", "0"]
    assert f"{file}: speed: unknown: remove it, or fix the spelling" in said
    assert host.service(unit).is_running


def test_a_restart_of_docker_would_not_take_the_watcher_along(host: Host) -> None:
    for unit in UNITS:
        for relation in ("PartOf", "BindsTo", "Requires", "Requisite", "PropagatesStopTo"):
            others = show(host, unit, relation).split()
            # What systemd adds itself: the slice and the early boot.
            assert set(others) <= {"system.slice", "sysinit.target", "-.mount", "tmp.mount"}


@pytest.mark.parametrize("unit", UNITS)
def test_each_has_its_limits(host: Host, unit: str) -> None:
    high, most = (int(show(host, unit, name)) for name in ("MemoryHigh", "MemoryMax"))
    workspaces = 6 if unit == "infbox-watcher" else 0
    assert 0 < high < most <= (2048 + 64 * workspaces) << 20
    assert int(show(host, unit, "TasksMax")) < 1000
    assert show(host, unit, "LimitCORE") == "0"


def test_a_watcher_that_dies_is_back(host: Host) -> None:
    before = show(host, "infbox-watcher", "MainPID")
    host.check_output(f"kill -KILL {before}")
    assert is_another(host, before)


def test_a_failed_installation_leaves_the_old_program_running(host: Host, tmp_path: Path) -> None:
    before = [show(host, unit, "MainPID") for unit in UNITS]
    environment = host.check_output(f"readlink {INSTALLED}/venv")
    source = copy_of_source(tmp_path)
    (source / "src/infbox/cli.py").write_text("raise SystemExit('broken on purpose')\n")
    status, said = converge(watcher_source_dir=str(source))
    assert status != 0
    assert "Verify that all programs start" in said
    assert host.check_output(f"readlink {INSTALLED}/venv") == environment
    assert [show(host, unit, "MainPID") for unit in UNITS] == before


def test_a_changed_program_is_installed_and_all_are_restarted(host: Host, tmp_path: Path) -> None:
    before = [show(host, unit, "MainPID") for unit in UNITS]
    source = copy_of_source(tmp_path)
    (source / "src/infbox/added.py").write_text('"""Added."""\n')
    status, said = converge(watcher_source_dir=str(source))
    assert status == 0, said
    assert host.run(f"{INSTALLED}/venv/bin/python -c 'import infbox.added'").rc == 0
    assert len(host.file(f"{INSTALLED}/environments").listdir()) == 1
    assert not {*before} & {show(host, unit, "MainPID") for unit in UNITS}


def test_a_workspace_that_is_not_readable_is_named(host: Host) -> None:
    host.check_output("chmod 700 /srv/tools")
    status, said = converge()
    host.check_output("chmod 750 /srv/tools")
    assert status != 0
    assert "The watcher may not read the workspace tools: /srv/tools has mode 0700" in said


def push(host: Host, name: str) -> None:
    """Push a file whose name is in its text."""
    host.check_output(
        "su git -s /bin/sh -c %s",
        f"cd /srv/forge/work && echo '# {name}' > {name}.py && git add . && "
        "git -c user.name=dev -c user.email=dev@example.org commit --quiet -m more && "
        "git push --quiet ../demo.git main",
    )


def copy_of_source(folder: Path) -> Path:
    """Return a copy of the program's source."""
    source = SCENARIO.parents[1] / "watcher"
    copy = folder / "watcher"
    copy.mkdir()
    parts = [source / name for name in ("README.md", "pyproject.toml", "requirements.txt", "src")]
    subprocess.run(["cp", "-r", *parts, copy], check=True)
    return copy


def show(host: Host, unit: str, name: str) -> str:
    """Return a property of a unit."""
    return str(host.check_output(f"systemctl show --value --property={name} {unit}"))


def inside(host: Host, unit: str, command: str, *, root: bool = False) -> str:
    """Return what a command prints in the view that a unit has of the file system."""
    user = "" if root else "--setuid=64430 --setgid=64430"
    pid = show(host, unit, "MainPID")
    done = host.run(f"nsenter --target={pid} --mount {user} {command}")
    return str(done.stdout + done.stderr)


def is_another(host: Host, before: str, unit: str = "infbox-watcher") -> bool:
    """Wait until another process of a unit runs than the one with this number."""

    def has_come() -> bool:
        running = show(host, unit, "ActiveState") == "active"
        return running and show(host, unit, "MainPID") not in (before, "0")

    return bool(wait_for(has_come, 40))


def key(host: Host, user: str) -> str:
    """Return the key of a user."""
    return str(host.check_output(f"cat {KEYS}/{user}"))


def authorize(host: Host, key: str) -> str:
    """Return what is said of a key: the status, the user and how many requests at once."""
    script = (
        "import http.client, sys\n"
        "client = http.client.HTTPConnection('127.0.0.1', 8012, timeout=5)\n"
        "client.request('GET', '/authorize', headers={'X-Api-Key': sys.argv[1]})\n"
        "answer = client.getresponse()\n"
        "names = ('X-Infbox-User', 'X-Infbox-Concurrent')\n"
        "print(answer.status, *(answer.headers[name] for name in names))\n"
    )
    return str(host.check_output("python3 -c %s %s", script, key))


def modes(host: Host, path: str) -> str:
    """Return mode, user and group of a path."""
    return str(host.check_output(f"stat --format '%a %U %G' {path}"))


def get(host: Host, url: str, user: str = "") -> str:
    """Return what is at a URL, asked on the host, for the gateway by a user."""
    script = (
        "import sys,urllib.request as r; asked = r.Request(sys.argv[1])\n"
        "if sys.argv[2]: asked.add_header('X-Infbox-User', sys.argv[2])\n"
        "print(r.urlopen(asked, timeout=5).read().decode())"
    )
    return str(host.check_output("python3 -c %s %s %s", script, url, user))


def call(host: Host, tool: str, **arguments: str) -> str:
    """Return what a tool of the gateway says of the workspace `shop`."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }
    script = (
        "import sys,urllib.request as r\n"
        "told = {'Content-Type': 'application/json', 'X-Infbox-User': 'alice',\n"
        "        'Accept': 'application/json, text/event-stream'}\n"
        "url = 'http://127.0.0.1:8010/mcp/shop'\n"
        "print(r.urlopen(r.Request(url, sys.argv[1].encode(), told), timeout=30).read().decode())"
    )
    answer = json.loads(host.check_output("python3 -c %s %s", script, json.dumps(body)))
    return str(answer["result"]["content"][0]["text"])


def status(host: Host) -> Any:
    """Return the watcher's status."""
    return json.loads(get(host, "http://127.0.0.1:8011/status"))


def pack(host: Host, workspace: str) -> Any:
    """Return the pack that is published."""
    return json.loads(host.check_output(f"cat {STATE}/packs/{workspace}/pack.json"))


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Return what `condition` returns once that is true, or after some seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return result
