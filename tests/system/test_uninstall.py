"""The way off a host, after all else: what is left is what was there before.

The last of the system's tests, since nothing serves after it.
"""

import pytest

from lab.deployment import play
from tests.system.conftest import Site, look

pytestmark = pytest.mark.lab

UNINSTALL = "playbooks/uninstall.yml"
SHOWN = 100  # of the things that should not be there
# Made or changed by programs of the system itself, whoever runs them.
BY_THEMSELVES = (
    "file /etc/.pwd.lock",
    "file /etc/ld.so.cache",
    "file /etc/passwd-",
    "file /etc/group-",
    "file /etc/shadow-",
    "file /etc/gshadow-",
    "file /etc/subuid-",
    "file /etc/subgid-",
)


def test_it_says_what_it_would_do_and_does_nothing(site: Site) -> None:
    said = play([UNINSTALL, "-i", site.inventory], "uninstall-plan")
    assert "would be removed" in said
    assert "restic" in said, "a package that came with us is not named"
    assert site.ssh("docker inspect --format '{{.State.Running}}' infbox-vllm-1") == "true"


def test_the_host_is_left_as_it_was_found(site: Site) -> None:
    play(
        [UNINSTALL, "-i", site.inventory, "-e", "infbox_uninstall_confirmed=true",
         "-e", "infbox_uninstall_data=remove"],
        "uninstall",
    )  # fmt: skip
    after = look(site.host)
    appeared = {thing for thing in after - site.before if thing not in BY_THEMSELVES}
    assert not appeared, "\n".join(sorted(appeared)[:SHOWN])
    gone = site.before - after
    assert not gone, "\n".join(sorted(gone)[:SHOWN])
