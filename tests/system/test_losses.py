"""A full disk, a power cut and a clock that jumps: what takes a host with a disk of its own.

`make chaos` runs it with the other faults. `/var/lib/infbox`, where all that infbox keeps lies, is
a file system of its own here. Power is cut by the kernel's own call for that, after which nothing
more reaches the disk, not even what the file system's log has pending; then every process is
killed. The clock is another for the watcher, the gateway and the keys, by libfaketime.
"""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lab import hosts
from lab.client import Client, fetch_tokenizer
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, wait_for
from lab.settings import ROOT, STATE, container_name
from lab.shell import LabError, run
from tests.system.conftest import WORKSPACE, Site, diagnosed
from tests.system.faults import questions, well

pytestmark = [pytest.mark.lab, pytest.mark.long]

HOST = "losses"
DATA = "/var/lib/infbox"
DISK_GB = 30  # sparse: only what is written takes room
FULL_MB = 4  # what others free at once counts for nothing
# EXT4_IOC_SHUTDOWN of the kernel's ext4.h, and its flag that the log is not written either.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
WELL_WITHIN = 300.0  # seconds, most of them for starting the engine
# Nearly all at once, and the rest byte by byte, since others write as well.
FILL = f"""
cd {DATA}
fallocate --length $(($(df --output=avail --block-size=1M . | tail -1) - 64))M filler
cat /dev/zero > filler.rest 2> /dev/null
"""
CLOCKS = "infbox-watcher infbox-gateway infbox-keys"
FAKE_TIME = (
    "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
    " FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1"
)
OWN_CLOCK = f"""
apt-get -qq install --yes libfaketime > /dev/null 2>&1
echo +0 > /run/clock
for unit in {CLOCKS}; do
  mkdir -p /run/systemd/system/$unit.service.d
  printf '[Service]\nEnvironment={FAKE_TIME}\n' > /run/systemd/system/$unit.service.d/clock.conf
done
systemctl daemon-reload
systemctl restart {CLOCKS}
"""
HOSTS_CLOCK = f"""
rm /run/systemd/system/*/clock.conf
systemctl daemon-reload
systemctl restart {CLOCKS}
"""
DAY = 24 * 3600.0


class Disk:
    """A file system of its own on this machine, which a lab host has as a folder."""

    def __init__(self) -> None:
        self._image = STATE / f"{HOST}.img"
        self.folder = STATE / HOST

    def make(self) -> None:
        """Make it, empty, and mount it."""
        self.remove()
        with self._image.open("wb") as image:
            image.truncate(DISK_GB << 30)
        run(["mkfs.ext4", "-q", "-m", "0", self._image])
        self.folder.mkdir(exist_ok=True)
        self.mount()

    def mount(self) -> None:
        """Mount it, which brings it into order after a cut."""
        run(["mount", "-o", "loop", self._image, self.folder])

    def unmount(self) -> None:
        """Unmount it."""
        run(["umount", self.folder])

    def cut(self) -> None:
        """Let nothing more reach it, as where its power goes."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Remove it."""
        if self.folder.is_mount():
            self.unmount()
        self._image.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    disk = Disk()
    hosts.remove(HOST)
    disk.make()
    try:
        yield disk
    finally:
        hosts.remove(HOST)
        disk.remove()


@pytest.fixture(scope="module")
def site(disk: Disk) -> Iterator[Site]:
    tree = copy_tree(ROOT, f"{HOST}-{WORKSPACE}")
    mounts = [f"{STATE / 'workspaces'}:{WORKSPACES}", f"{disk.folder}:{DATA}"]
    host = hosts.create(HOST, "debian13", mounts)
    workspaces = [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]
    folder = inventory(host, {"infbox_workspaces": workspaces})
    with diagnosed([host]):
        output = play(["site.yml", "-i", folder], HOST)
        client = Client(endpoint(host), WORKSPACE)
        client.wait_until_warm()
        yield Site(host, folder, tree, client, output, frozenset())


@pytest.fixture(scope="module")
def right(site: Site) -> str:
    """The answer without any cache."""
    return site.client.ask(cold=True).text


def cut_power(site: Site, disk: Disk) -> None:
    """Cut the host's power, and bring it back."""
    container = container_name(HOST)
    disk.cut()
    run(["docker", "kill", container])
    disk.unmount()
    disk.mount()
    address = hosts.create(HOST, "debian13").address
    assert address == site.host.address


def test_after_a_power_cut_all_is_well_by_itself(site: Site, disk: Disk, right: str) -> None:
    with questions(site.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        began = time.monotonic()
        cut_power(site, disk)
        wait_for("all being well after it", lambda: well(site, right), WELL_WITHIN)
        took = time.monotonic() - began
    print(asking.row("power is cut", took))
    site.client.wait_until_warm()
    assert asking.failures
    assert asking.answers == {right}
    assert site.client.ask(cold=True).text == right
    assert "changed=0 " in play(["site.yml", "-i", site.inventory], f"{HOST}-after-cut")


@pytest.mark.parametrize("seconds", [20, 50])
def test_after_a_power_cut_in_the_midst_of_a_run_the_next_run_ends_it(
    site: Site, disk: Disk, right: str, seconds: int
) -> None:
    more = f"vllm_max_num_seqs={64 + seconds}"
    words: list[str | Path] = ["site.yml", "-i", site.inventory, "-e", more]
    with contextlib.suppress(LabError):
        play(words, f"{HOST}-cut-{seconds}", cut_off=seconds)
    cut_power(site, disk)
    wait_for("all being well after it", lambda: well(site, right), WELL_WITHIN)
    play(words, f"{HOST}-ended-{seconds}")
    assert "changed=0 " in play(words, f"{HOST}-again-{seconds}")
    assert site.client.ask(cold=True).text == right


def test_while_the_disk_is_full_it_answers_and_after_that_nothing_is_lost(
    site: Site, right: str
) -> None:
    saved = site.tree / "saved_on_a_full_disk.py"
    with questions(site.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        with contextlib.suppress(LabError):  # it ends when there is no more room
            site.ssh(FILL)
        assert int(site.ssh(f"df --output=avail --block-size=1M {DATA} | tail -1")) <= FULL_MB
        since = time.time()
        saved.write_text("def saved_on_a_full_disk() -> None: ...\n")
        time.sleep(20)
        asked = asking.asked
        began = time.monotonic()
        site.ssh(f"rm {DATA}/filler*")
        site.client.wait_until_saved(since)
        now_right = site.client.ask(cold=True).text
        wait_for("all being well after it", lambda: well(site, now_right), WELL_WITHIN)
        took = time.monotonic() - began
    print(asking.row("the disk is full for 20 s", took))
    assert asked > 1
    assert not asking.failures
    assert asking.answers <= {right, now_right}
    since = time.time()
    saved.unlink()
    site.client.wait_until_saved(since)


@pytest.fixture
def clock(site: Site) -> Iterator[None]:
    """The services have a clock that can be set; it is the host's own again afterwards."""
    site.ssh(OWN_CLOCK)
    yield
    site.ssh(HOSTS_CLOCK)


def is_shown(site: Site, tokenizer: Tokenizer, file: Path) -> bool:
    """Say whether a question's prompt shows a file."""
    return f"{file.stem}()" in site.client.prompt(tokenizer)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_jumps_changes_nothing(site: Site, days: int) -> None:
    answer = wait_for("the services", lambda: site.client.ask().text or None, 60)
    wait_for("all being well", lambda: well(site, answer), WELL_WITHIN)
    tokenizer = fetch_tokenizer(site.host)
    saved = site.tree / "saved_at_another_time.py"
    with questions(site.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        site.ssh(f"echo {days:+d}d > /run/clock")
        began = time.monotonic()
        wait_for("all being well after it", lambda: well(site, answer), WELL_WITHIN)
        took = time.monotonic() - began
        saved.write_text("def saved_at_another_time() -> None: ...\n")
        wait_for("the save", lambda: is_shown(site, tokenizer, saved) or None, 60)
        ahead = site.client.status()["watcher"]["last_save"] - time.time()
        saved.unlink()
    print(asking.row(f"the clock jumps by {days} days", took))
    assert ahead == pytest.approx(days * DAY, abs=60), "the fault did not happen"
    assert not asking.failures
