"""The stack role on a lab host, with two services that serve a line of text.

The tests build on each other: each deploys what the next one starts from.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.rerun import CONVERGE, told

SCENARIO = Path(__file__).resolve().parent.parent
Services = dict[str, Any]
Done = tuple[int, str]
FIRST: Services = {
    "one": {"port": 9101, "answer": "first"},
    "two": {"port": 9102, "answer": "first"},
}


def test_the_first_release_serves(host: Host) -> None:
    assert (release(host, "live"), release(host, "current")) == (1, 1)
    assert (answer(host, 9101), answer(host, 9102)) == ("first", "first")


def test_a_second_run_changes_nothing(host: Host) -> None:
    before = started(host)
    status, said = deploy(host, FIRST)
    assert status == 0, said
    assert "changed=0 " in said
    assert started(host) == before


def test_without_an_earlier_release_there_is_nothing_to_go_back_to(host: Host) -> None:
    status, said = go_back()
    assert status != 0
    assert "There is no release before 1 to roll back to." in said
    assert release(host, "live") == 1


def test_a_fragment_that_compose_refuses_changes_nothing(host: Host) -> None:
    before = started(host)
    status, said = deploy(host, {**FIRST, "two": {**FIRST["two"], "image": "[not, an, image]"}})
    assert status != 0
    assert "Compose does not accept /etc/infbox/staging/compose/*.yml" in said
    assert started(host) == before


def test_a_release_that_fails_the_gate_does_not_stay(host: Host) -> None:
    before = started(host)
    change_the_host(host, "broken")
    status, said = deploy(host, {**FIRST, "two": {"port": 9102, "answer": "broken", "status": 500}})
    assert status != 0
    assert "; host services changed as well." in said
    assert on_the_host(host) == ("first", "first")
    assert host.file("/etc/three.conf").mode == 0o640
    assert "Release 2 failed: health check two answers" in said
    assert "Release 1 serves again." in said
    assert answer(host, 9102) == "first"
    assert (release(host, "live"), release(host, "current")) == (1, 1)
    assert host.file("/etc/infbox/releases").listdir() == ["1"]
    assert started(host)["one"] == before["one"]


def test_a_container_that_crashes_shows_its_log_long_before_the_timeout(host: Host) -> None:
    begin = time.monotonic()
    crashing = {"port": 9102, "answer": "second", "config": "/etc/caddy/missing"}
    status, said = deploy(host, {**FIRST, "two": crashing}, stack_health_timeout=600)
    assert status != 0
    assert "open /etc/caddy/missing: no such file or directory" in said
    assert "Release 2 failed: two is" in said
    assert answer(host, 9102) == "first"
    assert time.monotonic() - begin < 600, "it waited for the health check all the same"


def test_known_causes_in_the_log_of_a_failing_container_are_kept_after_it_is_gone(
    host: Host, tmp_path: Path
) -> None:
    """What the play's own rescue sees, whatever else the container wrote."""
    role = {"name": "Deploy", "ansible.builtin.include_role": {"name": "stack"}}
    show = {
        "name": "Print what was found",
        "ansible.builtin.debug": {"msg": "found {{ stack_matching_lines | to_json }}"},
    }
    tasks = [{"name": "Try", "block": [role], "rescue": [show]}]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([{"hosts": "all", "become": True, "tasks": tasks}]))
    crashing = {"port": 9102, "answer": "second", "config": "/etc/caddy/missing"}
    render(host, {**FIRST, "two": crashing})
    patterns = {"two": "no such (file|directory)|nothing like it", "one": "."}
    status, said = run(playbook, stack_log_patterns=patterns)
    assert status == 0, said
    found = said.partition("found {")[2].partition("}")[0]
    assert "open /etc/caddy/missing: no such file or directory" in found
    assert '"one' not in found
    assert answer(host, 9102) == "first"


def test_a_mended_run_restarts_only_the_container_that_changed(host: Host) -> None:
    before = started(host)
    change_the_host(host, "second")
    status, said = deploy(host, {**FIRST, "two": {"port": 9102, "answer": "second"}}, "--diff")
    assert status == 0, said
    assert "Release 2 replaces release 1; containers recreated or removed: two; host" in said
    assert '+ respond \\"second\\" 200' in said
    assert answer(host, 9102) == "second"
    after = started(host)
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]
    assert (release(host, "live"), release(host, "current")) == (2, 2)


def test_an_old_release_that_a_container_still_mounts_is_kept(host: Host) -> None:
    assert sorted(host.file("/etc/infbox/releases").listdir()) == ["1", "2"]
    assert "/releases/1/one" in host.check_output(f"cat /proc/{pid(host, 'one')}/mountinfo")


def test_a_release_whose_image_is_gone_is_refused(host: Host) -> None:
    fragment = "/etc/infbox/releases/1/compose/two.yml"
    host.check_output(f"sed -i.kept 's/image: .*/image: gone:1/' {fragment}")
    status, said = go_back(stack_rollback_to=1)
    host.check_output(f"mv {fragment}.kept {fragment}")
    assert status != 0
    assert "Release 1 cannot be restored, since these images or files are gone: gone:1." in said
    assert (release(host, "live"), answer(host, 9102)) == (2, "second")


def test_check_mode_lists_the_releases_and_changes_nothing(host: Host) -> None:
    status, said = go_back("--check")
    assert status == 0, said
    assert "release 1 differs in two, the services of the host" in said
    assert "release 2 current" in said
    assert "Release 1 would replace release 2." in said
    assert (release(host, "live"), answer(host, 9102)) == (2, "second")


def test_the_current_release_and_one_that_never_was_are_refused(host: Host) -> None:
    for number, words in ((2, "Release 2 is the current one"), (9, "There is no release 9 that")):
        status, said = go_back(stack_rollback_to=number)
        assert status != 0
        assert words in said
        assert "There are 1 to roll back to." in said
    assert release(host, "live") == 2


def test_a_release_that_fails_on_its_way_back_leaves_what_was(host: Host) -> None:
    gate = [{"name": "nobody answers", "url": "http://127.0.0.1:9109/"}]
    status, said = go_back(stack_health_checks=gate)
    assert status != 0
    assert "Release 3 failed: health check nobody answers" in said
    assert "Release 2 serves again." in said
    assert (release(host, "live"), answer(host, 9102)) == (2, "second")
    assert on_the_host(host) == ("second", "second")


def test_going_back_brings_the_release_before_with_the_services_of_the_host(host: Host) -> None:
    before = started(host)
    status, said = go_back()
    assert status == 0, said
    assert (release(host, "live"), release(host, "current")) == (3, 3)
    assert answer(host, 9102) == "first"
    assert on_the_host(host) == ("first", "first")
    assert started(host)["one"] == before["one"]


def test_a_restart_restarts_what_was_named_and_asks_the_gate(host: Host) -> None:
    before = started(host)
    status, said = other("restart", stack_restart=["two"])
    assert status == 0, said
    after = started(host)
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]
    assert answer(host, 9102) == "first"


def test_an_interrupted_run_is_noticed_and_resolved(host: Host) -> None:
    host.check_output(
        "cp -a /etc/infbox/staging /etc/infbox/releases/4 && "
        "ln -sfn /etc/infbox/releases/4 /etc/infbox/live"
    )
    services = {"two": {"port": 9102, "answer": "third"}}
    status, said = deploy(host, services, stack_services=["two"], stack_health_checks=[])
    assert status == 0, said
    assert "release 4 is live, yet the one that passed its health checks last is 3" in said
    assert answer(host, 9102) == "third"
    assert (release(host, "live"), release(host, "current")) == (5, 5)
    assert host.file("/etc/infbox/releases").listdir() == ["5"]


def test_a_service_that_was_taken_off_is_gone(host: Host) -> None:
    assert sorted(started(host)) == ["two"]
    assert sorted(host.file("/etc/infbox/staging").listdir()) == ["compose", "host", "two"]
    assert host.file("/etc/infbox/staging/compose").listdir() == ["two.yml"]


def test_the_release_comes_back_after_a_restart_of_docker(host: Host) -> None:
    host.check_output("systemctl restart docker")
    assert answer(host, 9102) == "third"


def test_a_service_that_hangs_is_restarted_by_the_host(host: Host) -> None:
    before, stopped = started(host)["two"], pid(host, "two")
    host.check_output(f"kill -STOP {stopped}")
    # None runs while it is restarted.
    wait_for(lambda: started(host).get("two", before) != before)
    assert answer(host, 9102) == "third"
    journal = host.check_output("journalctl --unit=infbox-autoheal --output=cat --no-pager")
    assert "two is unhealthy (" in journal
    assert ") and is restarted: 1 of at most 3 restarts within 3600 s." in journal
    metrics = "/var/lib/infbox/metrics/infbox-autoheal.prom"
    wait_for(lambda: 'total{project="infbox",service="two"} 1' in host.file(metrics).content_string)


def test_without_autoheal_nothing_of_it_is_left(host: Host) -> None:
    services = {"two": {"port": 9102, "answer": "third"}}
    status, said = deploy(
        host, services, stack_services=["two"], stack_health_checks=[], stack_autoheal=False
    )
    assert status == 0, said
    assert host.run("systemctl cat infbox-autoheal").rc != 0
    assert not host.file("/var/lib/infbox/metrics/infbox-autoheal.prom").exists


def test_a_first_release_that_fails_leaves_nothing_half_done(host: Host) -> None:
    host.check_output(
        "docker compose --project-name infbox down && "
        "rm -r /etc/infbox/live /etc/infbox/current /etc/infbox/releases"
    )
    services = {"two": {"port": 9102, "answer": "broken", "status": 500}}
    status, said = deploy(host, services, stack_services=["two"])
    assert status != 0
    assert "its containers were removed and nothing runs" in said
    assert started(host) == {}
    assert not host.file("/etc/infbox/live").exists
    assert host.file("/etc/infbox/staging/compose/two.yml").exists

    gate = [{"name": "two answers", "url": "http://127.0.0.1:9102/"}]
    status, said = deploy(
        host,
        {"two": {"port": 9102, "answer": "mended"}},
        stack_services=["two"],
        stack_health_checks=gate,
    )
    assert status == 0, said
    assert answer(host, 9102) == "mended"


def deploy(host: Host, services: Services, *options: str, **variables: Any) -> Done:
    """Render services and run the role."""
    render(host, services)
    return run(CONVERGE, *options, **variables)


def render(host: Host, services: Services) -> None:
    """Render services into staging."""
    images = json.loads(Path(os.environ["LAB_IMAGES"]).read_text())
    program = (SCENARIO / "render.py").read_text()
    host.check_output(
        "python3 -c %s %s %s", program, images["caddy"]["reference"], json.dumps(services)
    )


def go_back(*options: str, **variables: Any) -> Done:
    """Go back to an earlier release."""
    return other("rollback", *options, **variables)


def other(tasks: str, *options: str, **variables: Any) -> Done:
    """Run other tasks of the role than those of a run."""
    return run(SCENARIO / "other.yml", *options, which=tasks, **variables)


def run(playbook: Path, *options: str, **variables: Any) -> Done:
    """Run a playbook against the host; the role needs no facts."""
    return told(playbook, *options, environment={"ANSIBLE_GATHERING": "explicit"}, **variables)


def change_the_host(host: Host, text: str) -> None:
    """Do to the service of the host what its own role would."""
    host.check_output(f"echo {text} >/etc/three.conf && systemctl restart three")


def on_the_host(host: Host) -> tuple[str, str]:
    """Return what the service of the host would run by, and what it does run by."""
    return host.check_output("cat /etc/three.conf"), host.check_output("cat /run/three")


def release(host: Host, link: str) -> int:
    """Return the number of the release that a link points to."""
    return int(Path(host.file(f"/etc/infbox/{link}").linked_to).name)


def answer(host: Host, port: int) -> str:
    """Return what a service answers, given ten seconds to come up."""
    script = (
        "import time,urllib.request as r\n"
        "for attempt in range(40):\n"
        "    try:\n"
        f"        print(r.urlopen('http://127.0.0.1:{port}/', timeout=5).read().decode()); break\n"
        "    except OSError:\n"
        "        time.sleep(0.25)\n"
    )
    return str(host.check_output("python3 -c %s", script))


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(240):
        if is_so():
            return
        time.sleep(0.5)
    pytest.fail("it did not come to be so")


def containers(host: Host, template: str) -> dict[str, str]:
    """Return one value a running service."""
    ids = host.check_output("docker ps --quiet --filter label=com.docker.compose.project=infbox")
    if not ids:
        return {}
    service = '{{index .Config.Labels "com.docker.compose.service"}}'
    command = "docker inspect --format %s " + " ".join(ids.split())
    lines = host.check_output(command, f"{service} {template}").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def started(host: Host) -> dict[str, str]:
    """Return when each running container was started."""
    return containers(host, "{{.State.StartedAt}}")


def pid(host: Host, service: str) -> str:
    """Return the first process of a service's container."""
    return containers(host, "{{.State.Pid}}")[service]
