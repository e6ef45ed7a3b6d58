"""The rules of the docker role's guard, in the kernel: client, host and container are namespaces.

The host redirects two ports to the container as Docker does, and its firewall closes both. Needs
root and nft, and changes nothing of this machine.
"""

import os
import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

from tests.plugins.plugin_files import ROOT

RULES = """
table ip nat {
 chain pre {
  type nat hook prerouting priority dstnat
  tcp dport 8090 dnat to 172.30.0.2:80
  tcp dport 8091 dnat to 172.30.0.2:80
 }
}
table inet firewall {
 chain input {
  type filter hook input priority filter
  tcp dport 8090-8091 drop
 }
}
"""
SCRIPT = """
set -e
mount -t tmpfs none /run && mkdir -p /run/netns
ip netns add client && ip netns add cont
ip link add c0 type veth peer name eth0 netns client
ip link add docker0 type bridge && ip link set docker0 up && ip addr add 172.30.0.1/24 dev docker0
ip link add v0 type veth peer name eth0 netns cont && ip link set v0 master docker0 up
ip addr add 10.9.0.1/24 dev c0 && ip link set c0 up
ip -n client addr add 10.9.0.2/24 dev eth0 && ip -n client link set eth0 up
ip -n client route add default via 10.9.0.1
ip -n cont addr add 172.30.0.2/24 dev eth0 && ip -n cont link set eth0 up
ip -n cont route add default via 172.30.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
nft --file rules.nft
ip netns exec cont python3 -m http.server --bind 0.0.0.0 80 > /dev/null 2>&1 &
trap "kill $!" EXIT
for _ in $(seq 200); do
  ip netns exec client timeout 2 bash -c "< /dev/tcp/10.9.0.1/8090" 2> /dev/null && break
  sleep 0.1
done
look() {
  for port in 8090 8091; do
    ip netns exec client timeout 2 bash -c "< /dev/tcp/10.9.0.1/$port" 2> /dev/null \\
      && echo "$1 $port open" || echo "$1 $port closed"
  done
}
look without
nft --file guard.nft
nft --file guard.nft
look with
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft") or not shutil.which("ip"),
    reason="namespaces want root, and the rules nft",
)
def test_a_published_port_is_closed_but_where_named_and_was_open_before(tmp_path: Path) -> None:
    template = (ROOT / "roles/docker/templates/guard.nft.j2").read_text()
    guard = jinja2.Environment(trim_blocks=True, autoescape=True).from_string(template)
    (tmp_path / "guard.nft").write_text(guard.render(docker_open_ports=[8090]) + "\n")
    (tmp_path / "rules.nft").write_text(RULES)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", SCRIPT],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "without 8090 open",
        "without 8091 open",
        "with 8090 open",
        "with 8091 closed",
    ], done.stderr
