"""Runs vLLM's tests in the engine image, in the network of a deployed lab host."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab import images
from lab.deployment import Endpoint, endpoint, ssh
from lab.hosts import Host
from lab.settings import STATE, container_name
from lab.shell import LabError, step, succeeds
from tests.conformance import sdist
from tests.conformance.verdict import Result

OUT = STATE / "conformance"
INSIDE = "/conformance"
DIRECT, EDGE, PACK = "direct", "edge", "pack"
ENGINE_PORT = 8000
_EACH_TEST = 360  # seconds, while two other targets are sent the same
_SETTINGS = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
ENDED = (0, 1, 5)  # pytest's exit codes of a run that came to its end


@dataclass(frozen=True)
class Target:
    """A server that is asked.

    Attributes:
        name: of it in reports.
        url: its root.
        model: to name.
        key: to send.
        has_authority: whether its certificate is of the lab host's own.
    """

    name: str
    url: str
    model: str
    key: str = field(default="none", repr=False)
    has_authority: bool = False


def targets(point: Endpoint, workspace: str, engine: str) -> dict[str, Target]:
    """Return the servers that are asked, by name.

    Args:
        point: where the host answers.
        workspace: whose pack is put in front.
        engine: root of the engine, which only the host's loopback has.
    """
    edge = point.url.removesuffix("/v1")
    return {
        DIRECT: Target(DIRECT, engine, "coder"),
        EDGE: Target(EDGE, edge, "coder", point.key, has_authority=True),
        PACK: Target(PACK, edge, f"coder@{workspace}", point.key, has_authority=True),
    }


def suite() -> dict[str, Any]:
    """Return what ``suite.yml`` says."""
    found: dict[str, Any] = yaml.safe_load((sdist.HERE / "suite.yml").read_text())
    return found


class Runner:
    """Runs tests against the engine of a host, its edge, and its edge with a pack.

    Args:
        host: deployed, in the lab.
        workspace: that is put in front.
        tokens: most of an answer.
    """

    def __init__(self, host: Host, workspace: str, tokens: int) -> None:
        self._host = host
        self._tokens = tokens
        self._container = f"infbox-conformance-{host.instance}-{os.getpid()}"
        self._image = images.engine_image()
        self._folder = OUT / host.instance
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        point = endpoint(host)
        shutil.copy(point.authority, self._folder / "root.crt")
        self._fetch_tokenizer()
        self._targets = targets(point, workspace, f"http://127.0.0.1:{ENGINE_PORT}")
        self._packages = sdist.packages()
        archive = sdist.fetch(sdist.pinned())
        with step("Unpacking vLLM's tests"):
            for model in {target.model for target in self._targets.values()}:
                self._write_tests(archive, model)

    def run(self, target: str, tests: Sequence[str], only: Sequence[str] = ()) -> list[Result]:
        """Run tests against a target.

        Args:
            target: its name.
            tests: files below vLLM's ``tests``, or tests of them, ``FILE::TEST``.
            only: ids of those that are to be run; all where there are none.

        Raises:
            LabError: pytest did not come to its end; the message has the end of its output.
        """
        report = self._folder / f"{target}.jsonl"
        report.unlink(missing_ok=True)
        (self._folder / f"{target}.only").write_text("\n".join(only))
        command = self._command(self._targets[target], bool(only))
        with step(f"vLLM's tests: {target}, {f'{len(only)} again' if only else 'all'}"):
            try:
                done = subprocess.run(
                    [*command, *(f"tests/{name}" for name in tests), *_deselected()],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, check=False,
                    env=os.environ | {"CONFORMANCE_KEY": self._targets[target].key},
                )  # fmt: skip
            finally:  # where this run is ended before its end
                succeeds(["docker", "rm", "--force", f"{self._container}-{target}"])
        log = self._folder / f"{target}{'-again' if only else ''}.log"
        with log.open("a") as file:  # after those of other directories
            file.write(done.stdout)
        if done.returncode not in ENDED or not report.exists():
            raise LabError(f"pytest ended with {done.returncode}; the end of {log}:\n"
                           + "\n".join(done.stdout.splitlines()[-30:]))  # fmt: skip
        lines = report.read_text().splitlines()
        return [Result(each["id"], each["outcome"], each["why"]) for each in map(json.loads, lines)]

    def _command(self, target: Target, is_again: bool) -> list[str]:
        settings = {
            "CONFORMANCE_URL": target.url,
            "CONFORMANCE_MODEL": target.model,
            "CONFORMANCE_TOKENS": f"{self._tokens}",
            "CONFORMANCE_REPORT": f"{INSIDE}/{target.name}.jsonl",
            "CONFORMANCE_ONLY": f"{INSIDE}/{target.name}.only" if is_again else "",
            "PYTHONPATH": f"{INSIDE}/packages:{INSIDE}/plugin:{self._tree(target.model)}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if target.has_authority:
            authority = f"{INSIDE}/root.crt"
            names = ("CONFORMANCE_AUTHORITY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
            settings |= dict.fromkeys(names, authority)
        return [
            "docker", "run", "--rm", "--init", "--name", f"{self._container}-{target.name}",
            # Where the engine listens on loopback, and where the edge is as for any client.
            "--network", f"container:{container_name(self._host.instance)}",
            "--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL",
            "--volume", f"{self._folder}:{INSIDE}",
            "--volume", f"{self._packages}:{INSIDE}/packages:ro",
            "--volume", f"{sdist.HERE / 'container'}:{INSIDE}/plugin:ro",
            "--workdir", self._tree(target.model),
            *(f"--env={name}={value}" for name, value in settings.items()),
            "--env", "CONFORMANCE_KEY",  # its value is no argument
            "--entrypoint", "python", self._image, "-m", "pytest",
            "-p", "infbox_conformance", "-p", "no:cacheprovider", "-q", "--no-header",
            "--tb=short", f"--timeout={_EACH_TEST}",
        ]  # fmt: skip

    def _fetch_tokenizer(self) -> None:
        """Copy what the host's model has besides its weights."""
        folder = self._folder / "tokenizer"
        folder.mkdir()
        model = ssh(self._host, "ls -td /var/lib/infbox/models/*/ | head -1")
        names = ssh(self._host, f"cd {model} && find . -maxdepth 1 -type f -size -20M").split()
        for name in names:
            if not name.endswith((".safetensors", ".bin")):
                (folder / name).write_text(ssh(self._host, f"cat {model}/{name}"))

    def _write_tests(self, archive: Path, model: str) -> None:
        """Write vLLM's tests with a model in the place of those that they name."""
        said, folder = suite(), self._folder / "trees" / slug(model)
        sdist.unpack(archive, folder, said["parts"])
        for file in (folder / "tests").rglob("*.py"):
            text = file.read_text()
            if (new := renamed(text, said["models"], model)) != text:
                file.write_text(new)
        shutil.copy(sdist.HERE / "container" / "utils.py", folder / "tests" / "utils.py")
        # Where the tests look for the tokenizer of the model that they name.
        shutil.copytree(self._folder / "tokenizer", folder / model)
        (folder / "pytest.ini").write_text(_SETTINGS)

    def _tree(self, model: str) -> str:
        return f"{INSIDE}/trees/{slug(model)}"


def _deselected() -> list[str]:
    """Return options that leave out what ``suite.yml`` says."""
    return [f"--deselect=tests/{each['test']}" for each in suite()["left_out"]]


def slug(model: str) -> str:
    """Return a model's name as a directory's."""
    return model.replace("@", "-")


def renamed(text: str, models: Sequence[str], model: str) -> str:
    """Return a test's text with one model in the place of others."""
    names = "|".join(map(re.escape, models))
    return re.sub(rf'"(?:{names})"', f'"{model}"', text)
