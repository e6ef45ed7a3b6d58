"""The CUDA engine image on a machine without a GPU: its libcuda is a stub."""

import json
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.images import cuda_engine_image, lock
from lab.shell import run

HERE = Path(__file__).parent
STUB = "/tmp/stub"


@dataclass(frozen=True)
class Engine:
    """A container of the engine image, in which commands run as in production.

    Attributes:
        container: its name.
        functions: of libcuda that the extensions want.
        extensions: their files, below the packages' folder.
    """

    container: str
    functions: Sequence[str]
    extensions: Sequence[str]

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the container, with `text` as its standard input."""
        return subprocess.run(
            ["docker", "exec", "--interactive", self.container, *command],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def python(self, module: str, *arguments: str, text: str = "") -> Any:
        """Run a module of this directory and return what it printed last, read as JSON."""
        done = self.run("python", "-m", f"tests.engine_cuda.{module}", *arguments, text=text)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with lock():
        image = cuda_engine_image()
    name = f"infbox-lab-engine-cuda-{uuid.uuid4().hex[:8]}"
    # As roles/vllm has it, without what only a GPU needs.
    run(
        ["docker", "run", "--detach", "--name", name, "--network", "none", "--read-only",
         "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec",
         # In place of the directory of compiled kernels.
         "--tmpfs", "/var/lib/infbox:exec,mode=1777",
         "--env", f"LD_LIBRARY_PATH={STUB}", "--volume", f"{HERE.parent}:/infbox/tests:ro",
         "--workdir", "/infbox", image, "sleep", "infinity"]
    )  # fmt: skip
    try:
        bare = Engine(name, (), ())
        assert bare.run("mkdir", STUB).returncode == 0
        found = bare.python("libcuda_stub", STUB)
        yield Engine(name, found["functions"], found["extensions"])
    finally:
        run(["docker", "rm", "--force", name])
