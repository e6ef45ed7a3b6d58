"""What every test of faults needs: questions that are asked all the time, and when all is well."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import openai

from lab.client import BrokenOffError, Client
from lab.shell import LabError
from tests.system.conftest import Site

HEAD = (
    "| fault | asked | failed | longest wait | all well after |\n| --- | --- | --- | --- | --- |\n"
)
FEW_TOKENS = 200  # a prompt with fewer has no pack


@dataclass(frozen=True)
class Fault:
    """What is done to the host.

    Attributes:
        name: in words.
        command: does it, on the host.
        within: seconds until all is well again at most.
        may_fail: questions that may fail: those that the part had taken, or that came in the
            moment before somebody else took over.
        proof: a command whose output is another after the fault, or it did not happen.
        waits: seconds that some question waits at least, or it did not happen.
    """

    name: str
    command: str
    within: float
    may_fail: int = 0
    proof: str = ""
    waits: float = 0.0


@dataclass
class Questions:
    """Questions that are asked all the time, each about the workspace.

    Attributes:
        asked: how many were.
        longest: seconds that one took at most.
        failures: what a client saw.
        answers: all that were given, each once.
    """

    asked: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)

    def run(self, client: Client, done: threading.Event) -> None:
        """Ask until told to end."""
        while not done.is_set():
            began = time.monotonic()
            self.asked += 1
            try:
                answer = client.ask()
                # Without the gateway there is an answer without context, as promised.
                if answer.prompt_tokens > FEW_TOKENS:
                    self.answers.add(answer.text)
            except (openai.APIError, BrokenOffError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.2)
            self.longest = max(self.longest, time.monotonic() - began)

    def row(self, fault: str, took: float) -> str:
        """Return the table's row about a fault; `took` seconds passed until all was well."""
        return (
            f"| {fault} | {self.asked} | {len(self.failures)} | {self.longest:.1f} s"
            f" | {took:.1f} s |"
        )


@contextlib.contextmanager
def questions(client: Client) -> Iterator[Questions]:
    """Ask until the block is left."""
    asking = Questions()
    with meanwhile(lambda done: asking.run(client, done)):
        yield asking


@contextlib.contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have something done in a thread until the block is left, which the event tells it."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def well(site: Site, right: str) -> bool | None:
    """Return True once every part is well, the pack is warm and the answer is the right one."""
    with contextlib.suppress(LabError, openai.APIError, BrokenOffError):
        is_healthy = json.loads(site.fetch("http://127.0.0.1:8010/status"))["healthy"]
        answer = site.client.ask()
        has_pack = answer.prompt_tokens > FEW_TOKENS
        return (is_healthy and has_pack and answer.text == right) or None
    return None
