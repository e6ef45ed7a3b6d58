"""A model, a stub of the hub that has it, and the real client that fetches it from there."""

import random
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from infbox_model import __main__ as command_line

from tests.plugins.plugin_files import ROOT, load_file

stub_hub = load_file(ROOT / "molecule/model_store/stub_hub.py")

REPOSITORY = "stub/model"
REVISION = "ea3f2471cf1b1f0db85067f1ef93848e38e88c25"
TOKEN = "the-token"  # noqa: S105
WEIGHTS = "model-00001-of-00002.safetensors"
SIZE = 1_000_000

Fetch = Callable[..., int]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model as it is on the hub."""
    numbers = random.Random(6)  # noqa: S311
    folder = tmp_path / "hub" / REPOSITORY
    (folder / "notes").mkdir(parents=True)
    for name, size in (
        ("config.json", 300),
        ("tokenizer.json", 5000),
        ("notes/empty.txt", 0),
        (WEIGHTS, SIZE),
        ("model-00002-of-00002.safetensors", SIZE // 2),
        ("pytorch_model.bin", 1000),
    ):
        (folder / name).write_bytes(numbers.randbytes(size))
    return folder


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    """The stub of the hub, and the token that opens it."""
    server = stub_hub.StubHub(0, model.parents[1], TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield server
    server.troubles.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the model will be."""
    folder = tmp_path / "store" / "stub--model-ea3f2471cf1b"
    folder.parent.mkdir()
    return folder


def arguments(hub: Any, place: Path, *more: str) -> list[str]:
    """Return the command line that fetches the model."""
    return [
        "hub", "--repository", REPOSITORY, "--revision", REVISION, "--endpoint", hub.address,
        "--place", str(place), "--ignore", "*.bin", "--first-wait", "0.001", "--tries", "4", *more,
    ]  # fmt: skip


@pytest.fixture
def fetch(hub: Any, place: Path) -> Fetch:
    """Fetches the model; options given again win."""

    def run(*more: str) -> int:
        return command_line.run(command_line.parser().parse_args(arguments(hub, place, *more)))

    return run


def same(place: Path, model: Path) -> bool:
    """Return whether the wanted files of a model are in its place, bit by bit."""
    wanted = {
        path.relative_to(model)
        for path in model.rglob("*")
        if path.is_file() and path.suffix != ".bin"
    }
    there = {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
    return there == {*wanted, Path("infbox-model.json")} and all(
        (place / path).read_bytes() == (model / path).read_bytes() for path in wanted
    )
