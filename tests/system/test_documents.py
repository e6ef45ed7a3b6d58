"""What README and docs tell people to type, against the deployed host, from the text itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.deployment import endpoint
from tests.docs.commands import API, HOST, Block, Command, blocks, commands
from tests.stages import PAGES_OF_A_HOST
from tests.system.conftest import WORKSPACE, Site

pytestmark = pytest.mark.lab

FEW = 8  # tokens: an answer without a limit would go on to the end of the window


def of(where: str) -> list[Command]:
    found = [
        each for each in commands() if each.where == where and each.at.startswith(PAGES_OF_A_HOST)
    ]
    assert len(found) >= 3
    return found


def code() -> list[Block]:
    found = [each for each in blocks() if each.language == "python" and each.page == "docs/api.md"]
    assert len(found) >= 2
    return found


def filled_in(text: str, site: Site) -> str:
    """Put this host's own names in the place of those that a reader has to replace."""
    text = re.sub(r"\b(SERVER|ADDRESS)\b", site.host.address, text)
    return re.sub(r"(\bcoder@|--workspace )shop\b", rf"\1{WORKSPACE}", text)


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader is: with the certificate beside, and the key in the environment."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(endpoint(site.host).authority, folder / "root.crt")
    return folder


def environment(site: Site) -> dict[str, str]:
    return {**os.environ, "KEY": endpoint(site.host).key}


@pytest.mark.parametrize("command", of(API), ids=str)
def test_what_is_asked_of_the_api_is_answered(command: Command, site: Site, folder: Path) -> None:
    text = filled_in(command.text, site)
    if text.startswith("export KEY="):
        assert endpoint(site.host).key.startswith(text.removeprefix("export KEY=").rstrip("…"))
        return
    if found := re.match(r"ssh \S+ (.*)", text):
        # Where a redirection follows it is the reader's own shell that makes the file.
        assert site.ssh(found[1].partition(" > ")[0])
        return
    if text.startswith("infbox ask"):
        assert site.ssh(f"{text} --max-tokens {FEW}").strip()
        return
    text = re.sub(r"\{(\s*)(\"model\")", rf'{{\1"max_tokens": {FEW}, \2', text)
    done = subprocess.run(
        ["bash", "-c", text.replace("curl ", "curl --fail-with-body --silent --show-error ", 1)],
        cwd=folder, env=environment(site), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", code(), ids=lambda each: f"{each.page}:{each.line}")
def test_python_of_the_page_runs(block: Block, site: Site, folder: Path) -> None:
    text = re.sub(r"max_tokens=\d+,\s*", "", filled_in(block.text, site))
    text = text.replace("    messages=[", f"    max_tokens={FEW},\n    messages=[")
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nKEY = os.environ['KEY']\nimport ssl\n{text}"],
        cwd=folder, env=environment(site), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", of(HOST), ids=str)
def test_what_is_looked_at_on_the_host_is_there(command: Command, site: Site) -> None:
    # What follows a log would never end.
    text = re.sub(
        r" -f\b", " --no-pager" if command.text.startswith("journalctl") else "", command.text
    )
    assert site.ssh(f"{text} 2>&1 | head --lines 50").strip()
