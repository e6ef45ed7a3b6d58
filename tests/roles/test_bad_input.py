"""What roles refuse before they change anything, seen through Ansible itself.

Everything runs against this machine and ends at the refusal. What preflight refuses is told in
tests/plugins, case by case; here is that its message reaches a person.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT


def refuse(folder: Path, role: str, variables: dict[str, Any], *, path: str = "") -> str:
    """Run a role against this machine and return why it stops.

    Args:
        folder: where the playbook is written.
        role: name of the role.
        variables: its variables.
        path: folder of programs that the role finds first.
    """
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "roles": [role],
        "environment": {"PATH": f"{path}:{os.environ['PATH']}"},
    }
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", str(playbook)),
            *("--inventory", "localhost,", "--connection", "local"),
            *("--extra-vars", json.dumps(variables)),
            *("--extra-vars", f"ansible_python_interpreter={sys.executable}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    return " ".join((done.stdout + done.stderr).split())


def test_preflight_names_all_that_is_wrong_in_one_message(tmp_path: Path) -> None:
    said = refuse(
        tmp_path,
        "preflight",
        {
            "infbox_presett": "cpu",
            "preflight_known_settings": ["infbox_preset", "infbox_workspaces"],
            "preflight_required_settings": ["infbox_workspaces"],
            "preflight_preset": "cpus",
            "preflight_workspaces": [{"name": "gone", "path": str(tmp_path / "gone")}],
            "preflight_model_path": str(tmp_path),
        },
    )
    for words in (
        "localhost is left as it is, since this cannot work:",
        "- infbox_presett is not a setting. Did you mean infbox_preset?",
        "- infbox_workspaces is not set.",
        "- There is no preset cpus. Set infbox_preset to one of: cpu, auto.",
        "- The path of workspace gone is not there:",
        "- infbox_model_path holds no model:",
    ):
        assert words in said


def test_preflight_shows_the_arithmetic_of_cards_given_by_hand(tmp_path: Path) -> None:
    said = refuse(
        tmp_path,
        "preflight",
        {
            "preflight_presets": {
                "cpu": {"gpus": 0},
                "team": {"gpus": 8, "gpu_memory_mib": 80000},
            },
            "preflight_preset": "team",
            "preflight_given_gpus": [{"name": "A100", "memory_mib": 81920, "count": 4}],
        },
    )
    assert "Preset team does not fit: it needs 8 GPUs of 80000 MiB" in said
    assert "this host has 4 of 81920 MiB (A100). Set infbox_preset to one that fits (cpu)." in said


def test_docker_refuses_an_engine_without_compose_v2(tmp_path: Path) -> None:
    # A stub: the Engine is an old one, and no such Engine can be had.
    stub = tmp_path / "docker"
    stub.write_text('#!/bin/sh\n[ "$1" = info ] && echo 19.03.15 && exit 0\nexit 1\n')
    stub.chmod(0o755)
    said = refuse(tmp_path, "docker", {}, path=str(tmp_path))
    assert "Docker Engine 19.03.15 answers without Compose 2.18 or later (none). Install" in said


def test_docker_refuses_an_authority_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_text("a key, say")
    variables = {"docker_ca_certificates": [str(tmp_path / "site.pem")]}
    stub = tmp_path / "docker"  # Whatever this machine has, its Engine is not what is asked here.
    stub.write_text('#!/bin/sh\n[ "$1" = info ] && echo 26.1.5 || echo 2.26.1\n')
    stub.chmod(0o755)
    said = refuse(tmp_path, "docker", variables, path=str(tmp_path))
    assert "site.pem, which holds no certificate. Give PEM files" in said


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            {"source": "pull", "reference": "caddy:2"},
            "Image it has no digest: caddy:2. Add @sha256:",
        ),
        (
            {"source": "build", "reference": "caddy:2", "build_context": "/no/such/folder"},
            "Image it has no Dockerfile in /no/such/folder. Set its build_context",
        ),
        (
            {"source": "load", "reference": "caddy:2", "archive": "/srv/caddy.tar"},
            "Image it is to be loaded and lacks an archive or its checksum. Give both",
        ),
        (
            {"source": "load", "reference": "no-such-image:2", "archive": "/no/such/file",
             "checksum": "0" * 64},
            "/no/such/file, has the SHA-256 of nothing, since it is not there in place of 0000",
        ),
    ],
    ids=["no digest", "no context", "no checksum", "another archive"],
)  # fmt: skip
def test_images_refuses(tmp_path: Path, image: dict[str, str], words: str) -> None:
    assert words in refuse(tmp_path, "images", {"images_list": [{"name": "it", **image}]})


def test_model_store_refuses_a_revision_that_can_move(tmp_path: Path) -> None:
    said = refuse(tmp_path, "model_store", {"model_store_revision": "main"})
    assert "model_store_revision is main, which may mean other files tomorrow. Give the" in said


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "*.safetensors, and has none of them. Correct model_store_given_path."),
        ({"config.json": 0o644, "tokenizer.json": 0o644}, "and has config.json, tokenizer.json."),
        ({"config.json": 0o644, "tokenizer.json": 0o644, "model.safetensors": 0o600},
         "cannot read"),
    ],
    ids=["empty", "no weights", "not readable"],
)  # fmt: skip
def test_model_store_refuses_a_path_that_the_engine_cannot_load(
    tmp_path: Path, files: dict[str, int], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, mode in files.items():
        (folder / name).touch()
        (folder / name).chmod(mode)
    variables = {"model_store_from": "path", "model_store_given_path": str(folder)}
    assert words in refuse(tmp_path, "model_store", variables)
