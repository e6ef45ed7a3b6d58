"""The images role on a lab host: one image pulled, one built, one loaded."""

import json
import os
from pathlib import Path
from typing import Any

from testinfra.host import Host


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
    assert host.file("/var/lib/infbox/build").listdir() == []


def test_the_archive_was_loaded(host: Host) -> None:
    assert host.run("docker image inspect infbox/loaded:1").rc == 0
