"""What roles refuse before they change anything, seen through Ansible itself.

One run tries every case against this machine, each of which ends at its refusal. What preflight
refuses is told in tests/plugins, case by case; here is that its message reaches a person.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT

# Stubs of `docker`: an Engine that is older than any that can be had here, and one that will do.
OLD_DOCKER = '#!/bin/sh\n[ "$1" = info ] && echo 19.03.15 && exit 0\nexit 1\n'
GOOD_DOCKER = '#!/bin/sh\n[ "$1" = info ] && echo "26.1.5|/var/lib/docker|3|v2.26.1"\n'
SWARMING_DOCKER = GOOD_DOCKER.replace("v2.26.1", "v2.26.1|v0.13.1|active")
DOCKERS = {"docker, no compose": OLD_DOCKER, "docker, in a swarm": SWARMING_DOCKER}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "preflight, all at once": (
        "preflight",
        {
            "preflight_known_settings": ["infbox_preset", "infbox_workspaces"],
            "preflight_renamed_settings": {"stack_gate": "stack_health_checks"},
            "stack_gate": [],
            "preflight_required_settings": ["infbox_workspaces"],
            "preflight_preset": "cpus",
            "preflight_workspaces": [{"name": "gone", "path": "/no/such/tree"}],
            "preflight_model_path": "/etc",
        },
    ),
    "preflight, too few GPUs": (
        "preflight",
        {
            "preflight_presets": {
                "cpu": {"gpus": 0},
                "team": {"gpus": 8, "gpu_memory_mib": 80000},
            },
            "preflight_preset": "team",
            "preflight_given_gpus": [{"name": "A100", "memory_mib": 81920, "count": 4}],
        },
    ),
    "docker, no compose": ("docker", {}),
    "docker, containers left behind": ("docker", {"docker_data_root": "/srv/docker"}),
    "docker, in a swarm": ("docker", {}),
    "docker, no path to wait for": ("docker", {"docker_mounts": ["/srv/models", "models"]}),
    "docker, no authority": ("docker", {"docker_ca_certificates": ["/etc/os-release"]}),
    "images, no digest": ("images", {"source": "pull"}),
    "images, no context": ("images", {"source": "build", "build_context": "/no/such/folder"}),
    "images, no checksum": ("images", {"source": "load", "archive": "/no/such/file"}),
    "images, another archive": (
        "images",
        {"source": "load", "archive": "/no/such/file", "checksum": "0" * 64},
    ),
    "model_store, a branch": ("model_store", {"model_store_revision": "main"}),
    "model_store, no path": ("model_store", {"model_store_from": "path"}),
    "model_store, empty": ("model_store", {"files": {}}),
    "model_store, no weights": (
        "model_store",
        {"files": {"config.json": 0o644, "tokenizer.json": 0o644}},
    ),
    "model_store, not readable": (
        "model_store",
        {"files": {"config.json": 0o644, "tokenizer.json": 0o644, "model.safetensors": 0o600}},
    ),
}

WORDS = [
    ("preflight, all at once", "localhost was not changed, because of these problems:"),
    ("preflight, all at once", "- infbox_presett is not a setting. Did you mean infbox_preset?"),
    ("preflight, all at once", "- stack_gate is now named stack_health_checks. Rename it"),
    ("preflight, all at once", "- infbox_workspaces is not set."),
    ("preflight, all at once", "- There is no preset cpus. Set infbox_preset to one of: cpu,"),
    ("preflight, all at once", "- The path of workspace gone does not exist: /no/such/tree."),
    ("preflight, all at once", "- infbox_model_path contains no model: /etc has no config.json"),
    ("preflight, too few GPUs", "needs 8 GPUs of 80000 MiB, this host has 4 of 81920 MiB (A100)."),
    ("preflight, too few GPUs", "Set infbox_preset to one that fits (cpu)."),
    ("docker, no compose", "Docker Engine 19.03.15 answers without Compose 2.18 or later (none)."),
    ("docker, containers left behind", "Docker keeps 3 containers in /var/lib/docker, and with"),
    ("docker, in a swarm", "swarm, with which it does not start if live-restore is on. Set"),
    ("docker, no path to wait for", "docker_mounts contains models. Give absolute paths"),
    ("docker, no authority", "names /etc/os-release, which holds no certificate. Give PEM files"),
    ("images, no digest", "Image it has no digest: no-such-image:1. Add @sha256:"),
    ("images, no context", "Image it has no Dockerfile in /no/such/folder. Set its build_context"),
    ("images, no checksum", "Image it is to be loaded and lacks an archive or its checksum."),
    ("images, another archive", "the SHA-256 of nothing, since it is not there in place of 000"),
    ("model_store, a branch", "model_store_revision is main, which can mean other files later."),
    ("model_store, no path", "and model_store_given_path is empty. Give the absolute path"),
    ("model_store, empty", "*.safetensors, and has none of them. Correct model_store_given_path."),
    ("model_store, no weights", "and has config.json, tokenizer.json. Correct"),
    ("model_store, not readable", "cannot read"),
]  # fmt: skip


def variables(role: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the role's variables, with an image or a folder of a model made of what is given."""
    if role == "images":
        return {"images_list": [{"name": "it", "reference": "no-such-image:1", **given}]}
    if "files" in given:
        for name, mode in given["files"].items():
            (folder / name).touch()
            (folder / name).chmod(mode)
        return {"model_store_from": "path", "model_store_given_path": str(folder)}
    return given


def attempt(case: str, folder: Path) -> dict[str, Any]:
    """Return a task that tries a case and keeps what the refusal said in FOLDER/said."""
    role, given = CASES[case]
    folder.mkdir()
    stub = folder / "docker"
    stub.write_text(DOCKERS.get(case, GOOD_DOCKER))
    stub.chmod(0o755)
    failed = "ansible_failed_result"
    return {
        "name": case,
        "environment": {"PATH": f"{folder}:{os.environ['PATH']}"} if role == "docker" else {},
        "block": [
            {
                "name": "Try without a change",
                # If nothing is refused, the role goes on: with this machine's own packages.
                "check_mode": role == "docker",
                "block": [
                    {
                        "name": "Try",
                        "ansible.builtin.include_role": {"name": role},
                        "vars": variables(role, given, folder),
                    }
                ],
            },
            {"name": "Go on", "ansible.builtin.fail": {"msg": "nothing was refused"}},
        ],
        "rescue": [
            {
                "name": "Keep what was said",
                "ansible.builtin.copy": {
                    "content": f"{{{{ ({failed}.results | default([{failed}])"
                    " | selectattr('failed', 'defined') | selectattr('failed')) | to_json }}",
                    "dest": str(folder / "said"),
                    "mode": "0600",
                },
            }
        ],
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what was said in each case."""
    folder = tmp_path_factory.mktemp("cases")
    folders = {case: folder / str(number) for number, case in enumerate(CASES)}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"infbox_presett": "cpu", "ansible_python_interpreter": sys.executable},
        "tasks": [attempt(case, folders[case]) for case in CASES],
    }
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", str(playbook)),
            *("--inventory", "localhost,", "--connection", "local"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_PIPELINING": "1",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The one change of each case is the note that this test keeps of it.
    assert f"changed={len(CASES)} " in done.stdout
    return {
        case: " ".join(" ".join(result["msg"] for result in json.loads(text)).split())
        for case, place in folders.items()
        if (text := (place / "said").read_text())
    }


@pytest.mark.parametrize(("case", "words"), WORDS)
def test_bad_input_is_refused_by_name_with_the_mend(
    said: dict[str, str], case: str, words: str
) -> None:
    assert words in said[case]


def test_every_case_is_looked_at() -> None:
    assert {case for case, _ in WORDS} == set(CASES)
