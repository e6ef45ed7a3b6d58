"""The collection infbox.infbox: built, installed into an empty place, and run from there."""

import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pytest
import yaml

from lab import deployment, hosts

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LARGEST = 3_000_000  # bytes of the archive
CONTENT = {
    "CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "cake", "files",
    "group_vars", "meta", "playbooks", "plugins", "requirements.yml", "roles", "watcher",
}  # fmt: skip
# What work in a checkout leaves there.
LEFT_BEHIND = re.compile(r"__pycache__|/\.\w+_cache|/\.hypothesis|\.(whl|crt)$")
GPUS = [{"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559, "count": 4}]
# What a reader of docs/collection.md writes.
ALONE = """\
- hosts: all
  become: true
  roles:
    - infbox.infbox.docker
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    command("ansible-galaxy", "collection", "build", ROOT, "--output-path", folder, place=folder)
    (built,) = folder.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def place(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty directory, beside which the collection is installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "empty").mkdir()
    # As README has it, in the checkout, by its ansible.cfg. The package `ansible` has what the
    # collection depends on, in the versions that galaxy.yml asks for.
    own = {key: text for key, text in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [BIN / "ansible-galaxy", "collection", "install", "--offline", archive],
        cwd=ROOT, env={**own, "HOME": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "was installed successfully" in done.stdout, done.stdout
    (folder / ".ansible/collections").rename(folder / "collections")
    return folder / "empty"


def command(name: str, *arguments: str | Path, place: Path) -> str:
    """Run a command of Ansible's in a directory, with nothing of this checkout but its Python."""
    own = {key: text for key, text in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [BIN / name, *arguments], cwd=place, capture_output=True, text=True, check=False,
        env={**own, "ANSIBLE_COLLECTIONS_PATH": str(place.parent / "collections"),
             "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_archive_holds_what_a_controller_needs_and_no_more(archive: Path) -> None:
    assert archive.stat().st_size < LARGEST
    with tarfile.open(archive) as file:
        names = file.getnames()
    assert {name.split("/")[0] for name in names} == CONTENT
    assert not [name for name in names if LEFT_BEHIND.search(name)]


def test_it_depends_on_what_requirements_yml_has() -> None:
    listed = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    given = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    assert {entry["name"]: entry["version"] for entry in listed} == given
    texts = [path.read_text() for folder in ("playbooks", "roles")
             for path in (ROOT / folder).rglob("tasks/*.yml")]  # fmt: skip
    texts += [path.read_text() for path in (ROOT / "playbooks").glob("*.yml")]
    used = {
        name for text in texts for name in re.findall(r"\b((?:ansible|community)\.[a-z]+)\.", text)
    }
    assert used - {"ansible.builtin"} == set(given)


def test_site_is_found_by_its_name(place: Path) -> None:
    (place / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"gpu1": {}}}}))
    said = command("ansible-playbook", "infbox.infbox.site", "-i", "hosts.yml", "--list-tasks",
                   place=place)  # fmt: skip
    assert "Deploy inference services" in said
    assert "infbox.infbox.docker" in said


@pytest.mark.parametrize("own", [False, True], ids=["by-name", "from-a-playbook-of-ones-own"])
def test_a_playbook_finds_settings_filters_and_roles(place: Path, own: bool) -> None:
    given = {"ansible_connection": "local", "infbox_gpus": GPUS, "infbox_preset": "dev32"}
    (place / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"gpu1": given}}}))
    (place / "mine.yml").write_text("- import_playbook: infbox.infbox.plan\n")
    playbook = "mine.yml" if own else "infbox.infbox.plan"
    command("ansible-playbook", playbook, "-i", "hosts.yml", "-e", "infbox_plan_output=plan.json",
            place=place)  # fmt: skip
    plan = json.loads((place / "plan.json").read_text())["hosts"]["gpu1"]
    assert (plan["preset"], plan["fits"]) == ("dev32", True)


def test_files_and_the_watcher_are_found_in_the_collection(place: Path) -> None:
    tree = place.parent / "collections/ansible_collections/infbox/infbox"
    (place / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"gpu1": {}}}}))
    said = command("ansible", "-i", "hosts.yml", "gpu1", "--playbook-dir", tree / "playbooks",
                   "-c", "local", "-m", "debug", "-a", "var=_infbox_root", place=place)  # fmt: skip
    assert json.loads(said.partition("=>")[2])["_infbox_root"] == str(tree)
    assert (tree / "watcher/requirements.txt").is_file()
    assert (tree / "files/engine/cake").is_dir()


@pytest.mark.parametrize("folder", [ROOT, ROOT / "playbooks"], ids=["site", "playbooks"])
def test_a_checkout_finds_it_from_anywhere(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "nowhere"
    place.mkdir()
    said = command("ansible", "-i", "localhost,", "all", "--playbook-dir", folder, "-c", "local",
                   "-m", "infbox.infbox.files",
                   "-a", '{"directories": "{{ [] | infbox.infbox.user_names }}"}',
                   place=place)  # fmt: skip
    assert json.loads(said.partition("=>")[2])["existing"] == []


@pytest.mark.lab
def test_a_role_alone_deploys_a_lab_host(place: Path) -> None:
    with hosts.fresh("infbox-collection-role", "debian13") as host:
        inventory = deployment.inventory(host, {"docker_data_root": "/var/lib/docker/engine"})
        (place / "docker.yml").write_text(ALONE)
        command("ansible-playbook", "docker.yml", "-i", inventory, place=place)
        again = command("ansible-playbook", "docker.yml", "-i", inventory, place=place)
        assert "changed=0 " in again
        assert deployment.ssh(host, "docker info --format '{{.DockerRootDir}}'").strip() == (
            "/var/lib/docker/engine"
        )


@pytest.mark.lab
@pytest.mark.long
def test_site_deploys_a_lab_host(place: Path) -> None:
    with hosts.fresh("infbox-collection-site", "debian13") as host:
        deployment.ssh(host, "mkdir -p /srv/shop && echo 'def total(): ...' > /srv/shop/cart.py")
        inventory = deployment.inventory(
            host,
            {"infbox_preset": "cpu", "infbox_workspaces": [{"name": "shop", "path": "/srv/shop"}]},
        )
        command("ansible-playbook", "infbox.infbox.site", "-i", inventory, place=place)
        again = command("ansible-playbook", "infbox.infbox.site", "-i", inventory, place=place)
        assert "changed=0 " in again
        endpoint = deployment.endpoint(host)
        request = urllib.request.Request(  # noqa: S310 - the lab's own host
            f"{endpoint.url}/models", headers={"Authorization": f"Bearer {endpoint.key}"}
        )
        trust = ssl.create_default_context(cafile=str(endpoint.authority))
        with urllib.request.urlopen(request, context=trust) as answer:  # noqa: S310
            assert "coder@shop" in answer.read().decode()
