"""The images role on a lab host: one image pulled, one built, one loaded."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from testinfra.host import Host

from tests.rerun import CONVERGE, ROOT, converge

SCENARIO = Path(__file__).resolve().parents[1]
UNIT = "infbox-build-slow.service"
BUILDS = "/var/lib/infbox/build"


def labels(host: Host, image: str) -> Any:
    return json.loads(
        host.check_output(f"docker image inspect --format '{{{{json .Config.Labels}}}}' {image}")
    )


def test_the_pulled_image_is_the_one_with_the_digest(host: Host) -> None:
    published = json.loads(Path(os.environ["LAB_IMAGES"]).read_text())["caddy"]
    digests = host.check_output(
        f"docker image inspect --format '{{{{json .RepoDigests}}}}' {published['reference']}"
    )
    assert published["digest"] in digests


def test_the_pulled_image_runs_under_its_full_reference(host: Host) -> None:
    reference = json.loads(Path(os.environ["LAB_IMAGES"]).read_text())["caddy"]["reference"]
    host.check_output(f"docker run --rm --pull never {reference} caddy version")


def test_the_built_image_is_of_the_wanted_stage_with_its_arguments(host: Host) -> None:
    found = labels(host, "infbox/built:1")
    assert (found["every"], found["one"]) == ("every", "one")
    assert "unwanted" not in found


def test_the_built_image_says_what_it_was_built_of(host: Host) -> None:
    assert len(labels(host, "infbox/built:1")["infbox.context"]) == 64


def test_the_authorities_were_in_the_context(host: Host) -> None:
    host.run("docker rm --force probe")
    host.check_output("docker create --name probe infbox/built:1 none")
    listing = host.check_output("docker export probe | tar -xO ca/infbox.crt")
    assert "what the context is handed" in listing


def test_no_context_is_left_behind(host: Host) -> None:
    assert "built" not in host.file(BUILDS).listdir()


def test_the_archive_was_loaded(host: Host) -> None:
    assert host.run("docker image inspect infbox/loaded:1").rc == 0


def slow(seconds: int, status: int = 0) -> dict[str, Any]:
    """Return the role's variables for an image that no cache has."""
    base = json.loads(Path(os.environ["LAB_IMAGES"]).read_text())["caddy"]["reference"]
    args = {"BASE": base, "ONCE": uuid.uuid4().hex, "PAUSE": seconds, "END": status}
    return {
        "images_list": [
            {
                "name": "slow",
                "source": "build",
                "reference": "infbox/slow:1",
                "build_context": str(SCENARIO / "slow"),
                "build_args": args,
            }
        ],
        "images_progress_seconds": 1,
        "images_ca_certificates": [],
    }


def invocation(host: Host) -> str:
    return str(host.check_output(f"systemctl show --value --property=InvocationID {UNIT}"))


def started(host: Host) -> bool:
    """Return whether the step that takes long has begun."""
    return bool(host.run(f"grep --quiet 'Downloading one-1' {BUILDS}/slow/log").rc == 0)


def test_a_build_goes_on_where_the_run_is_interrupted_and_the_next_run_waits_for_it(
    host: Host,
) -> None:
    # The log of an earlier verification would pass for this one's.
    host.check_output(f"rm -rf {BUILDS}/slow")
    given = slow(15)
    run = subprocess.Popen(
        [Path(sys.executable).with_name("ansible-playbook"), CONVERGE,
         "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--extra-vars", json.dumps(given)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not started(host):
        assert run.poll() is None
        time.sleep(0.2)
    # As by Ctrl-C.
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    before = invocation(host)
    status, seen = converge(**given)
    assert status == 0, seen
    assert "Copy the build context" not in seen
    assert re.search(
        r"item=image slow: \d+ s, 1 package of the lock's 2, 1\.5 MB, one-1 \(1\.5 MB\), step 3/3",
        seen,
    )
    journal = f"journalctl --quiet --unit={UNIT} --output=json --output-fields=INVOCATION_ID"
    assert before in host.check_output(journal)
    label = labels(host, "infbox/slow:1")["once"]
    assert label == given["images_list"][0]["build_args"]["ONCE"]
    assert not host.file(f"{BUILDS}/slow").exists


def test_another_context_stops_a_build_and_what_fails_shows_the_end_of_its_log(host: Host) -> None:
    status, seen = converge(**slow(300), images_wait=False)
    assert status == 0, seen
    assert invocation(host)
    status, seen = converge(**slow(0, status=7))
    assert status != 0
    assert host.run("pgrep --full 'sleep 300'").rc != 0
    assert "Image slow was not built. The end of its log:" in seen
    assert "what the step says" in seen
    assert "exit code: 7" in seen
    assert host.file(f"{BUILDS}/slow").listdir() == ["hash", "log"]
