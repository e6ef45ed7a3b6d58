"""bootstrap.sh on a bare lab host that holds nothing but the repository's files.

The tests build on one another, in the order they stand here: looked at, refused, interrupted,
brought up with a reboot in the middle, looked at again. That a second run changes nothing is told
in tests/system.

The host has a stub GPU: one on a stub of the PCI bus, which a stub of nouveau has and does not give
away before a boot; stubs of NVIDIA's driver and container toolkit packages, in a signed repository
of the host's own; and the stub of nvidia-smi that they bring. The reboot, systemd, apt, Ansible and
all of infbox are real. The engine computes on the CPU.
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
from lab.deployment import endpoint, inventory, play, wait_for
from lab.hosts import Host
from lab.images import EXTRA_AUTHORITIES
from lab.settings import ROOT, container_name
from lab.shell import run

pytestmark = pytest.mark.lab

NAME = "bootstrap"
CHECKOUT = "/srv/infbox"
SCRIPT = f"{CHECKOUT}/bootstrap.sh"
# An authority that a site uses for its mirrors; pip does not look at the system's by itself.
PIP = "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
LAB_VARIABLES = "/root/lab.json"
UNIT = "infbox-bootstrap-resume"
# What is left of it for the next boot: nothing, once it began.
LEFT = f"/etc/infbox/bootstrap-resume /etc/systemd/system/{UNIT}.service"

STUB_PACKAGES = " + ".join(
    f"lookup('ansible.builtin.template', '{ROOT}/molecule/{scenario}/packages.yml.j2') | from_yaml"
    for scenario in ("nvidia_driver", "nvidia_container_toolkit")
)
# Nobody has this PCI id: only its driver can tell what the GPU is.
STUB_GPU = {
    "stub_gpus": ["NVIDIA H100 80GB HBM3"],
    "stub_devices": [{"address": "0000:00:00.0", "device": "ffff", "class": "0x030200"}],
    "stub_packages": "{{ " + STUB_PACKAGES + " }}",
}
# The kernel's own driver has the GPU, until a boot that is told to leave it alone.
STUB_NOUVEAU = """
mkdir -p /opt/stub/nouveau /etc/systemd/system/stub-gpu.service.d
ln -sfn /opt/stub/nouveau /opt/stub/pci/0000:00:00.0/driver
cat >/usr/local/sbin/stub-nouveau <<'END'
#!/bin/sh
! grep -qs '^blacklist nouveau' /etc/modprobe.d/* || rm -f /opt/stub/pci/*/driver
END
chmod +x /usr/local/sbin/stub-nouveau
cat >/etc/systemd/system/stub-gpu.service.d/nouveau.conf <<'END'
[Service]
ExecStartPre=/usr/local/sbin/stub-nouveau
END
"""
# Where the stub packages are, and what has none.
STUB_SETTINGS = {
    "infbox_preset": "cpu",
    "infbox_dcgm": False,
    # Monitoring of GPUs wants the DCGM exporter, of which the lab has no image. What else it does
    # is proven on the hosts of tests/system.
    "infbox_monitoring": False,
    "infbox_driver_version": "580.95.05",
    "nvidia_driver_disk_gb": 0.1,
    "nvidia_container_toolkit_version": "1.20.0-1",
    **{
        f"{role}_{name}": value
        for role in ("nvidia_driver", "nvidia_container_toolkit")
        for name, value in (
            ("repository", "file:///opt/stub/repository"),
            ("key", "/opt/stub/repository/key.asc"),
        )
    },
}

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
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
            stubs = inventory(host, STUB_GPU)
            play([ROOT / "molecule/shared/stub_gpu.yml", "-i", stubs], f"{NAME}-stubs")
        assert server.run(STUB_NOUVEAU).returncode == 0
        server.run(f"mkdir -p {CHECKOUT} && tar -C {CHECKOUT} -xo", tracked_files())
        # Root as a minimal server has it: without sudo.
        server.run("rm /usr/bin/sudo")
        for authority in EXTRA_AUTHORITIES.glob("*.crt"):
            server.run(f"cat >{authority}", authority.read_bytes())
        server.run("update-ca-certificates")
        settings = lab_variables(server.host) | STUB_SETTINGS
        server.run(f"cat >{LAB_VARIABLES}", json.dumps(settings).encode())
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
        "run playbooks/driver.yml, which installs the NVIDIA driver",
        "reboot once",
        "run site.yml",
    ):
        assert part in done.stdout
    assert server.snapshot() == before


def test_without_root_it_refuses(server: Server) -> None:
    done = server.run(f"setpriv --reuid nobody --clear-groups {SCRIPT}")
    assert done.returncode == 1
    assert "This script needs root." in done.stderr


def test_without_package_sources_it_refuses_and_changes_nothing(server: Server) -> None:
    proxy = "/etc/apt/apt.conf.d/99-nobody-listens"
    server.run(f"echo 'Acquire::http::Proxy \"http://127.0.0.1:9\";' >{proxy}")
    before = server.snapshot()
    try:
        done = server.bootstrap()
        assert done.returncode == 1
        assert "The package sources do not respond:" in done.stderr
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


def restarts(server: Server) -> int:
    """Return how often the host has booted anew."""
    container = container_name(server.host.instance)
    return int(run(["docker", "container", "inspect", "--format", "{{.RestartCount}}", container]))


def greeting(server: Server) -> str | None:
    """Return what greets who logs in once the run after the reboot is over."""
    told = server.run("cat /run/motd.d/infbox-bootstrap").stdout
    return told if "succeeded" in told or "failed" in told else None


def test_a_reboot_is_left_to_the_user_who_wants_it_stub(server: Server) -> None:
    # With a preset that is chosen by what the GPUs are.
    done = server.bootstrap("--no-reboot", "-e", f"@{LAB_VARIABLES}", "-e", "infbox_preset=auto")
    assert done.returncode == 1
    assert "The driver is installed first" in done.stdout
    assert "Creating Ansible's environment" in done.stdout
    assert "A reboot is needed: " in done.stderr
    assert "--no-reboot was given" in done.stderr
    assert "Running site.yml" not in done.stdout
    assert server.run(f"ls {LEFT}").stdout == ""
    assert restarts(server) == 0


def test_one_command_reboots_once_and_ends_with_an_endpoint_that_answers_stub(
    server: Server,
) -> None:
    done = server.bootstrap("-e", f"@{LAB_VARIABLES}")
    # As far as the connection lasts.
    assert done.returncode in {0, 255}
    assert "A reboot is needed: " in done.stdout
    assert f"log in again and run: journalctl -fu {UNIT}" in done.stdout
    assert "Running site.yml" not in done.stdout

    told = wait_for("The end of the run after the reboot", lambda: greeting(server), 900)
    said = server.run(f"journalctl --unit {UNIT} --output cat --no-pager").stdout
    print(said)
    assert "bootstrap.sh succeeded" in told
    assert re.search(r"Endpoint +https://\S+/v1", said)
    assert "/etc/infbox/secrets/api-keys/" in said
    assert "After you change them" in said.splitlines()[-2]
    assert "Endpoint" in server.run("cat /var/log/infbox-bootstrap.log").stdout
    assert server.run(f"ls {LEFT}").stdout == ""
    assert server.run(f"systemctl is-enabled {UNIT}").stdout != "enabled\n"
    assert restarts(server) == 1

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
    for step in ("install ", "create Ansible's environment", "write /etc/infbox"):
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
