"""Faults on a deployed host under load: what a user sees, and how long it is until all is well.

`make chaos` runs it; it is too long for every change. Each fault is made while questions are asked
all the time. Promised of each: no answer is ever wrong, all is well again by itself within a stated
time, and no more questions fail than those that the part had taken. The table at the end says what
came of it; docs/chaos.md keeps it.

What takes a disk or a clock of the host's own is in test_losses.py.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.deployment import play, wait_for
from lab.shell import LabError
from tests.system.conftest import Site
from tests.system.faults import FEW_TOKENS, HEAD, Fault, questions, well

pytestmark = [pytest.mark.lab, pytest.mark.long]

TABLE = Path(__file__).parents[2] / ".lab" / "chaos.md"
FROZEN = 8  # seconds
PID = "$(docker inspect --format '{{.State.Pid}}' infbox-%s-1)"
UNIT = "$(systemctl show --value --property=MainPID infbox-%s)"
# A process of a container, by its service and by what it calls itself; the first only starts it.
CHILD = (
    "$(docker top infbox-%s-1 -eo pid,args | grep --invert-match tini | grep --max-count=1 '%s'"
    " | awk '{print $1}')"
)
FREEZE = "kill -STOP {0}; sleep " + str(FROZEN) + "; kill -CONT {0}"
L2 = "/var/lib/infbox/lmcache"
# Somebody else in its container takes it all, and it is the first that the kernel ends for that.
OUT_OF_MEMORY = """
docker update --memory 2g --memory-swap 2g infbox-lmcache-1
for each in $(docker top infbox-lmcache-1 -eo pid | tail -n +2); do
  echo 1000 > /proc/$each/oom_score_adj
done
docker exec infbox-lmcache-1 python3 -c 'import time; all = b"1" * (2 << 30); time.sleep(5)'
docker update --memory 8g --memory-swap 8g infbox-lmcache-1
"""
STATE = "/var/lib/infbox/watcher"


def killed(part: str, place: str, within: float, may_fail: int) -> Fault:
    """Return the fault that ends a part's process at once."""
    return Fault(f"{part} is killed", f"kill -KILL {place}", within, may_fail, f"echo {place}")


def frozen(part: str, place: str, within: float, may_fail: int = 0, waits: float = 0.0) -> Fault:
    """Return the fault that stops a part's process for some seconds."""
    name = f"{part} is frozen for {FROZEN} s"
    return Fault(name, FREEZE.format(place), within, may_fail, waits=waits)


def paused(part: str, container: str, within: float, waits: float = 0.0) -> Fault:
    """Return the fault that stops all processes of a container for some seconds."""
    command = f"docker pause {container}; sleep {FROZEN}; docker unpause {container}"
    return Fault(f"{part} is frozen for {FROZEN} s", command, within, waits=waits)


def hung(part: str, place: str, within: float, may_fail: int = 0) -> Fault:
    """Return the fault that stops a part's process for good: somebody has to restart it."""
    name = f"{part} is frozen and left so"
    return Fault(name, f"kill -STOP {place}", within, may_fail, f"echo {place}")


# The engine's start is nearly all of what takes long.
FAULTS = (
    killed("the engine", PID % "vllm", 180, 1),
    killed("LMCache", PID % "lmcache", 120, 1),
    # Nobody answers in its place: those fail that are asked in the two seconds until it is back.
    killed("Caddy", PID % "caddy", 30, 10),
    killed("the gateway", UNIT % "gateway", 30, 3),
    killed("the watcher", UNIT % "watcher", 60, 0),
    killed("the keys", UNIT % "keys", 30, 3),
    paused("the engine", "infbox-vllm-1", 60, FROZEN - 2),
    paused("LMCache", "infbox-lmcache-1", 60),
    paused("Caddy", "infbox-caddy-1", 30, FROZEN - 2),
    frozen("the gateway", UNIT % "gateway", 60, 1, FROZEN - 2),
    frozen("the watcher", UNIT % "watcher", 60),
    frozen("the keys", UNIT % "keys", 30, 1),
    # Who asks while the engine hangs waits, until that is noticed and the engine ended.
    hung("the engine's core", CHILD % ("vllm", "EngineCore"), 600, 4),
    hung("the engine's API", CHILD % ("vllm", "vllm serve"), 600, 4),
    hung("LMCache", CHILD % ("lmcache", "lmcache server"), 300, 4),
    # Nobody answers in its place.
    hung("Caddy", PID % "caddy", 180, 60),
    # Caddy passes it by; those fail that it had taken.
    hung("the gateway", UNIT % "gateway", 120, 4),
    hung("the watcher", UNIT % "watcher", 180),
    # Nobody is let in meanwhile, and is told so after five seconds each.
    hung("the keys", UNIT % "keys", 60, 6),
    hung("Prometheus", "$(docker inspect --format '{{.State.Pid}}' infbox-monitoring-prometheus-1)",
         180),
    hung("what restarts containers", UNIT % "autoheal", 300),
    Fault("LMCache runs out of memory", OUT_OF_MEMORY, 180, 1, "echo " + PID % "lmcache"),
    Fault("the disk tier is removed", f"find {L2} -type f -delete", 60),
    Fault(
        "the disk tier is damaged",
        f"find {L2} -type f -exec sh -c 'printf damaged | dd of=$0 seek=4096 bs=1 conv=notrunc"
        " 2> /dev/null' {} \\;",
        60,
    ),
    Fault(
        "the index is damaged",
        f"systemctl stop infbox-watcher; for f in $(find {STATE} -name '*.db'); do"
        " printf damaged | dd of=$f seek=64 bs=1 conv=notrunc 2> /dev/null; done;"
        " systemctl start infbox-watcher",
        120,
    ),
    Fault(
        "the pack is damaged",
        f"for f in $(find {STATE}/packs -name pack.json); do printf damaged > $f; done;"
        " systemctl restart infbox-watcher",
        120,
    ),
    Fault("Docker is restarted", "systemctl restart docker", 60),
    Fault(
        "names cannot be resolved",
        "cp /etc/resolv.conf /run/resolv.before; echo nameserver 192.0.2.1 > /etc/resolv.conf;"
        " sleep 5; cat /run/resolv.before > /etc/resolv.conf",
        30,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def right(site: Site) -> str:
    """The answer without any cache."""
    site.client.wait_until_warm()
    return site.client.ask(cold=True).text


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows of the table; it is kept and printed at the end."""
    rows: list[str] = []
    yield rows
    TABLE.write_text(HEAD + "\n".join(rows) + "\n")
    print(TABLE.read_text())


def is_over(site: Site, fault: Fault, before: str) -> bool | None:
    """Return True once a fault's proof is another than before: the process is another."""
    with contextlib.suppress(LabError):
        return (not fault.proof or site.ssh(fault.proof) != before) or None
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_all_is_well_again_by_itself_and_no_answer_is_wrong(
    site: Site, right: str, table: list[str], fault: Fault
) -> None:
    with questions(site.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        before = site.ssh(fault.proof or "true")
        began = time.monotonic()
        site.ssh(fault.command)
        # One that is frozen is not missed at once.
        proven = f"{fault.name} being over"
        wait_for(proven, lambda: is_over(site, fault, before), fault.within)
        left = fault.within - (time.monotonic() - began)
        wait_for(f"all being well after {fault.name}", lambda: well(site, right), left)
        took = time.monotonic() - began
    site.client.wait_until_warm()
    table.append(asking.row(fault.name, took))
    assert asking.longest >= fault.waits, "the fault did not happen"
    assert asking.answers == {right}
    assert site.client.ask(cold=True).text == right
    assert len(asking.failures) <= fault.may_fail, asking.failures


def test_a_run_that_is_cut_off_is_taken_up_by_the_next(site: Site) -> None:
    for seconds in (15, 30, 45):
        with contextlib.suppress(LabError):
            play(
                ["site.yml", "-i", site.inventory, "-e", "vllm_max_num_seqs=64"],
                "chaos-cut-off",
                cut_off=seconds,
            )
        assert site.client.ask().prompt_tokens > FEW_TOKENS
    play(["site.yml", "-i", site.inventory], "chaos-taken-up")
    said = play(["site.yml", "-i", site.inventory], "chaos-again")
    assert "changed=0 " in said
