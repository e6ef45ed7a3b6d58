"""Operations on a deployed host, while somebody asks all the time."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import openai
import pytest

from lab.deployment import play, wait_for
from lab.settings import ROOT
from lab.shell import LabError
from tests.system.conftest import Site
from tests.system.faults import meanwhile

pytestmark = pytest.mark.lab

BREATH = 0.5  # seconds between an answer and the next question
HELD = 5  # seconds, in which no engine starts
OTHER_MODEL = "/srv/other-model"
AWAY = 15  # seconds, in which LMCache is started again and has been looked at
HELD_BY_LMCACHE = 60  # seconds: its timeout, and twice the computing
LMCACHE_METRICS = "http://127.0.0.1:8020/metrics"
STORED = r"^lmcache_mp_l1_write_chunks_total\S* (\S+)$"
VLLM_METRICS = "http://127.0.0.1:8000/metrics"
WARM_SHARE = 0.9


@dataclass
class Stream:
    """Questions through Caddy, one after the other.

    Attributes:
        answered: how many were.
        longest: seconds that one took at most.
        failures: what went wrong.
    """

    answered: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def run(self, site: Site, done: threading.Event) -> None:
        """Ask until told to end."""
        while not done.is_set():
            began = time.monotonic()
            try:
                for _ in site.client.openai.completions.create(
                    model="coder", prompt="def ", max_tokens=8, stream=True
                ):
                    pass
                self.answered += 1
            except openai.APIError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.longest = max(self.longest, time.monotonic() - began)
            # Somebody always asks, and the run beside it has the machine for the most part.
            done.wait(BREATH)


@contextlib.contextmanager
def asked_all_the_time(site: Site) -> Iterator[Stream]:
    """Ask until the block is left, and then fail where a question did."""
    stream = Stream()
    with meanwhile(lambda done: stream.run(site, done)):
        yield stream
    print(f"{stream.answered} answered, the longest after {stream.longest:.0f} s")
    assert stream.failures == []


@contextlib.contextmanager
def other_model(site: Site) -> Iterator[None]:
    """Have the same weights under another name: nobody can tell the KV of the two by its look."""
    site.ssh(f"cp --archive $(ls --directory /var/lib/infbox/models/*/ | head -1) {OTHER_MODEL}")
    try:
        yield
    finally:
        site.ssh(f"rm --recursive {OTHER_MODEL}")


# Stops the engine as the upgrade below does, so it need not be seen with every change.
@pytest.mark.long
def test_a_restart_loses_no_request(site: Site) -> None:
    with asked_all_the_time(site) as stream:
        before = started(site)
        said = play(
            ["playbooks/restart.yml", "-i", site.inventory, "-e", "service=vllm"], "restart"
        )
        answered = stream.answered
        wait_for_answers(stream, answered + 3)
    assert stream.answered >= answered + 3
    assert stream.longest > HELD, "nobody asked while the engine was away"
    assert started(site) != before
    assert "restarted vllm; serves completions again after" in said


def test_an_upgrade_to_another_model_and_the_way_back_lose_no_request(site: Site) -> None:
    tokens = site.client.wait_until_warm()["tokens"]
    first = current(site)
    caddy = site.ssh("docker inspect --format '{{.Created}}' infbox-caddy-1")
    with other_model(site), asked_all_the_time(site) as stream:
        said = play(
            ["playbooks/upgrade.yml", "-i", site.inventory,
             "-e", f"infbox_model_path={OTHER_MODEL}"],
            "upgrade",
        )  # fmt: skip
        second = current(site)
        assert f"release {second} serves, {first} did before" in said
        assert OTHER_MODEL in mounts(site)
        wait_for("the pack being warm", lambda: is_cached(site, tokens), 120)
        assert loaded_tokens(site) == 0, "KV of one model was served for another"
        play(["playbooks/rollback.yml", "-i", site.inventory], "rollback")
        assert OTHER_MODEL not in mounts(site)
        wait_for("the pack being warm", lambda: is_cached(site, tokens), 120)
        assert loaded_tokens(site) >= WARM_SHARE * tokens, "the KV of the first one was not kept"
        wait_for_answers(stream, stream.answered + 3)
    assert current(site) == second + 1
    assert site.ssh("docker inspect --format '{{.Created}}' infbox-caddy-1") == caddy


def test_a_service_that_there_is_not_is_refused_by_name(site: Site) -> None:
    with pytest.raises(LabError, match="There is no service engine"):
        play(["playbooks/restart.yml", "-i", site.inventory, "-e", "service=engine"], "restart")


def test_lmcache_may_die_while_somebody_asks_and_is_used_again(site: Site) -> None:
    site.client.wait_until_warm()
    site.ssh("kill -KILL $(docker inspect --format '{{.State.Pid}}' infbox-lmcache-1)")
    killed = time.monotonic()
    longest = 0.0
    while time.monotonic() < killed + AWAY:
        asked = time.monotonic()
        assert site.client.ask().prompt_tokens > 0
        longest = max(longest, time.monotonic() - asked)
    assert longest < HELD_BY_LMCACHE
    site.client.ask(cold=True)  # what it computes is new to LMCache, which counts from its start
    wait_for("the engine storing again", lambda: has_stored(site), 60)


def test_logs_are_followed_until_told_to_end(site: Site) -> None:
    following = subprocess.Popen(
        [sys.executable, ROOT / "tools/follow_logs.py", "-i", site.inventory,
         "--service", "caddy", "--since", "1s"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert following.stdout is not None
    ends = threading.Timer(30, following.kill)
    ends.start()
    with asked_all_the_time(site):
        line = following.stdout.readline()
    following.send_signal(signal.SIGINT)
    ends.cancel()
    assert following.wait(10) == 0
    following.stdout.close()
    assert line.startswith(f"{site.host.instance} caddy | ")
    wait_for("the host reading its log no more", lambda: is_left_alone(site), 20)


def is_left_alone(site: Site) -> bool | None:
    """Return True once nobody follows a log there; the pattern is not to find itself."""
    return site.ssh("pgrep --full '[d]ocker logs --follow' || true") == "" or None


def current(site: Site) -> int:
    """Return the number of the release that serves."""
    return int(site.ssh("readlink /etc/infbox/current").rpartition("/")[2])


def mounts(site: Site) -> str:
    """Return what the engine's container has mounted."""
    return site.ssh("docker inspect --format '{{json .Mounts}}' infbox-vllm-1")


def loaded_tokens(site: Site) -> float:
    """Return how many tokens the engine has loaded from LMCache since it was started."""
    return site.metric(VLLM_METRICS, "vllm:external_prefix_cache_hits_total")


def is_cached(site: Site, tokens: int) -> bool | None:
    """Return True once a question finds a pack of so many tokens in the cache."""
    return site.client.ask().cached_tokens >= WARM_SHARE * tokens or None


def has_stored(site: Site) -> bool | None:
    """Return True once LMCache has taken KV from the engine since it was started."""
    with contextlib.suppress(LabError):
        samples = re.findall(STORED, site.fetch(LMCACHE_METRICS), re.MULTILINE)
        return any(float(sample) > 0 for sample in samples) or None
    return None


def started(site: Site) -> str:
    """Return when the engine's container was started."""
    return site.ssh("docker inspect --format '{{.State.StartedAt}}' infbox-vllm-1")


def wait_for_answers(stream: Stream, count: int) -> None:
    """Wait until so many questions were answered, or one failed."""
    ends = time.monotonic() + 120
    while stream.answered < count and not stream.failures and time.monotonic() < ends:
        time.sleep(0.1)
