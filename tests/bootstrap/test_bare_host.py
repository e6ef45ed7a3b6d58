"""bootstrap.sh on a bare lab host that holds nothing but the repository's files.

The tests build on one another, in the order they stand here: looked at, refused, interrupted,
brought up, looked at again. That a second run changes nothing is told in tests/system.
"""

import io
import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from lab import hosts
from lab.client import Client
from lab.deployment import endpoint, inventory
from lab.hosts import Host
from lab.images import EXTRA_AUTHORITIES
from lab.settings import ROOT
from lab.shell import run

pytestmark = pytest.mark.lab

NAME = "bootstrap"
CHECKOUT = "/srv/infbox"
SCRIPT = f"{CHECKOUT}/bootstrap.sh"
# An authority that a site uses for its mirrors; pip does not look at the system's by itself.
PIP = "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
LAB_VARIABLES = "/root/lab.json"

# Packages, units, and every file outside what is made anew at each boot.
SNAPSHOT = """
dpkg-query --show
systemctl list-unit-files --no-pager
find / -xdev ! -path '/run*' ! -path '/tmp*' ! -path '/var/log/*' ! -path '/root/.ansible*' \
  ! -path '/proc*' ! -path '/sys*' -printf '%p %m %s %T@\\n' | sort
"""


@dataclass(frozen=True)
class Server:
    """A lab host and how to run something on it."""

    host: Host

    def run(self, command: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command; nothing is raised where it fails."""
        done = subprocess.run(
            ["ssh", "-i", self.host.identity_file, "-o", "BatchMode=yes",
             "-o", f"UserKnownHostsFile={self.host.known_hosts}",
             f"{self.host.user}@{self.host.address}", command],
            input=stdin or b"", capture_output=True, check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def snapshot(self) -> list[str]:
        """Return what a run must leave alone, one a line."""
        done = self.run(SNAPSHOT)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def bootstrap(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run bootstrap.sh."""
        done = self.run(shlex.join(["env", PIP, SCRIPT, *arguments]))
        print(done.stdout, done.stderr)
        return done


def tracked_files() -> bytes:
    """Return an archive of what git tracks in this checkout, as it is now."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in run(["git", "-C", ROOT, "ls-files", "-z"]).split("\0"):
            path = ROOT / name
            if name and (path.is_symlink() or path.exists()):
                tar.add(path, name, recursive=False)
    return archive.getvalue()


def lab_variables(host: Host) -> dict[str, object]:
    """Return the settings that every lab host has: where images are, and whom to trust."""
    content = json.loads((inventory(host, {}) / "hosts.yml").read_text())
    variables = content["inference"]["hosts"][host.instance]
    return {name: value for name, value in variables.items() if name.startswith("infbox_")}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Make a bare host, put the repository's files on it, and remove it afterwards."""
    with hosts.fresh(NAME, "debian13") as host:
        server = Server(host)
        server.run(f"mkdir -p {CHECKOUT} && tar -C {CHECKOUT} -xo", tracked_files())
        # Root as a minimal server has it: without sudo.
        server.run("rm /usr/bin/sudo")
        for authority in EXTRA_AUTHORITIES.glob("*.crt"):
            server.run(f"cat >{authority}", authority.read_bytes())
        server.run("update-ca-certificates")
        server.run(f"cat >{LAB_VARIABLES}", json.dumps(lab_variables(server.host)).encode())
        yield server


def test_check_says_the_steps_and_changes_nothing(server: Server) -> None:
    before = server.snapshot()
    done = server.bootstrap("--check")
    assert done.returncode == 0
    for part in (
        "install python3-venv",
        "/opt/infbox/ansible",
        "/etc/infbox/inventory/hosts.yml",
        f'{{name: infbox, path: "{CHECKOUT}"}}',
        "run site.yml",
    ):
        assert part in done.stdout
    assert server.snapshot() == before


def test_without_root_it_refuses(server: Server) -> None:
    done = server.run(f"setpriv --reuid nobody --clear-groups {SCRIPT}")
    assert done.returncode == 1
    assert "This needs root." in done.stderr


def test_without_package_sources_it_refuses_and_changes_nothing(server: Server) -> None:
    proxy = "/etc/apt/apt.conf.d/99-nobody-listens"
    server.run(f"echo 'Acquire::http::Proxy \"http://127.0.0.1:9\";' >{proxy}")
    before = server.snapshot()
    try:
        done = server.bootstrap()
        assert done.returncode == 1
        assert "The package sources do not answer:" in done.stderr
        assert server.snapshot() == before
    finally:
        server.run(f"rm {proxy}")


def test_a_system_of_another_name_is_refused_and_nothing_changes(server: Server) -> None:
    server.run("cp --preserve /usr/lib/os-release /root/os-release")
    server.run("sed -i 's/^VERSION_ID=.*/VERSION_ID=\"11\"/' /usr/lib/os-release")
    before = server.snapshot()
    try:
        done = server.bootstrap()
        assert done.returncode == 1
        assert "Use one with Debian 12 or 13" in done.stderr
        assert server.snapshot() == before
    finally:
        server.run("cp --preserve /root/os-release /usr/lib/os-release")


def test_interrupted_it_leaves_nothing_that_the_next_run_takes_for_whole(server: Server) -> None:
    server.run(
        f"{PIP} setsid {SCRIPT} >/root/interrupted 2>&1 & script=$!;"
        " until [ -e /opt/infbox/ansible/bin/pip ]; do sleep 0.2; done; sleep 2;"
        " kill -TERM -- -$script; wait $script"
    )
    assert server.run("test -e /opt/infbox/ansible/bin/pip").returncode == 0
    assert server.run("test -e /opt/infbox/ansible/made-from").returncode != 0
    assert server.run("test -e /etc/infbox/inventory").returncode != 0


def test_one_command_ends_with_an_endpoint_that_answers(server: Server) -> None:
    done = server.bootstrap("-e", f"@{LAB_VARIABLES}")
    assert done.returncode == 0
    assert "Making Ansible's environment" in done.stdout
    assert re.search(r"Endpoint +https://\S+/v1", done.stdout)
    assert "/etc/infbox/secrets/api-keys/" in done.stdout
    assert "/etc/infbox/inventory/hosts.yml" in done.stdout.splitlines()[-1]

    client = Client(endpoint(server.host), "infbox").openai
    assert {model.id for model in client.models.list()} >= {"coder", "coder@infbox"}
    answer = client.chat.completions.create(
        model="coder", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_check_on_a_finished_host_says_that_nothing_would_change(server: Server) -> None:
    server.run("echo '# mine' >>/etc/infbox/inventory/hosts.yml")
    done = server.bootstrap("--check", "-e", f"@{LAB_VARIABLES}")
    assert done.returncode == 0
    for step in ("install ", "make Ansible's environment", "write /etc/infbox"):
        assert f"- {step}" not in done.stdout
    assert "What site.yml would change" in done.stdout
    assert re.search(r"changed=0 .*failed=0", done.stdout)
    kept = server.run("cat /etc/infbox/inventory/hosts.yml").stdout
    assert kept.endswith("# mine\n")
    assert yaml.safe_load(kept)["inference"]["vars"]["infbox_workspaces"][0]["name"] == "infbox"


def test_a_workspace_beside_an_inventory_that_lacks_it_is_refused(server: Server) -> None:
    done = server.bootstrap("--workspace", "shop=/srv")
    assert done.returncode == 1
    assert '- {name: shop, path: "/srv"}' in done.stderr
