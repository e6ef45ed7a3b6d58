"""Runs langchain's standard tests here, in an environment of their own, against a lab host."""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.shell import LabError, step
from tests.clients.configured import PATH
from tests.clients.environments import python_environment
from tests.conformance.runner import ENDED, OUT, Target
from tests.conformance.sdist import HERE
from tests.conformance.verdict import Result

FILE = "langchain_chat.py"
_IN = "tests"
# One loop for all: connections that langchain keeps end with the loop that they were made in.
_SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = session
"""


class StandardTests:
    """Runs them against servers that answer already.

    Args:
        targets: the servers by name.
        authority: file with the certificate that those of lab hosts are signed by.
        tokens: most of an answer.
    """

    def __init__(self, targets: Mapping[str, Target], authority: Path, tokens: int) -> None:
        self._targets = targets
        self._authority = authority
        self._tokens = tokens
        self._python = python_environment("langchain-tests") / "python"
        self._folder = OUT / "langchain"
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / _IN).mkdir(parents=True)
        # Beside nothing of this repository, whose settings of pytest are not theirs.
        shutil.copy(HERE / "libraries" / FILE, self._folder / _IN)
        (self._folder / "pytest.ini").write_text(_SETTINGS)

    def run(self, target: str, tests: Sequence[str], only: Sequence[str] = ()) -> list[Result]:
        """Run tests against a target.

        Args:
            target: its name.
            tests: files of them.
            only: ids of those that are to be run; all where there are none.

        Raises:
            LabError: pytest did not come to its end; the message has the end of its output.
        """
        report = self._folder / f"{target}.xml"
        report.unlink(missing_ok=True)
        with step(f"langchain's tests: {target}, {f'{len(only)} again' if only else 'all'}"):
            done = subprocess.run(
                [self._python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
                 "--junitxml", report, *(only or [f"{_IN}/{test}" for test in tests])],
                cwd=self._folder, env=self._environment(self._targets[target]), check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip
        (self._folder / f"{target}{'-again' if only else ''}.log").write_text(done.stdout)
        if done.returncode not in ENDED or not report.exists():
            raise LabError(f"langchain's tests ended with {done.returncode}:\n"
                           + "\n".join(done.stdout.splitlines()[-30:]))  # fmt: skip
        return results(report.read_text())

    def _environment(self, target: Target) -> dict[str, str]:
        own = {"SSL_CERT_FILE": str(self._authority)} if target.has_authority else {}
        return own | {
            "HOME": str(self._folder),
            "PATH": f"{self._python.parent}:{os.environ.get('PATH', PATH)}",
            "OPENAI_BASE_URL": f"{target.url}/v1",
            "OPENAI_API_KEY": target.key,
            "CONFORMANCE_MODEL": target.model,
            "CONFORMANCE_TOKENS": f"{self._tokens}",
            "LANGSMITH_TRACING": "false",
        }


def results(report: str) -> list[Result]:
    """Return what a report in JUnit's form says.

    Args:
        report: the XML that pytest wrote.
    """
    found = []
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314  # our own pytest's
        name = f"{_IN}/{FILE}::{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = [each for each in case if each.tag in ("failure", "error")]
        skipped = case.find("skipped") is not None
        outcome = "failed" if bad else "skipped" if skipped else "passed"
        found.append(Result(name, outcome, bad[0].get("message", "") if bad else ""))
    return found
