"""Fetching a model with the hub's real client from a stub of the hub, whatever goes wrong."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from infbox_model.files import ModelError

from tests.model_store.conftest import (
    REPOSITORY,
    REVISION,
    SIZE,
    TOKEN,
    WEIGHTS,
    Fetch,
    arguments,
    same,
)
from tests.plugins.plugin_files import ROOT


def staging(place: Path) -> Path:
    return place.with_name(f".{place.name}.download")


def files_asked_for(hub: Any) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in hub.requests if "/resolve/" in path]


def process(hub: Any, place: Path, tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    """Start the script as the role does: the token in a file, nowhere else."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN_PATH": str(token),
        "HF_HUB_OFFLINE": "0",
        # A hub that is held back on a busy machine is not to be asked for the same once more.
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "roles/model_store/files"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "infbox_model", *arguments(hub, place, *more)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_model_is_there_as_the_hub_has_it(fetch: Fetch, model: Path, place: Path) -> None:
    assert fetch() == 0
    assert same(place, model)
    said = json.loads((place / "infbox-model.json").read_text())
    assert (said["source"], said["repository"], said["revision"]) == ("hub", REPOSITORY, REVISION)
    assert not staging(place).exists()


def test_a_model_that_is_there_costs_no_request(fetch: Fetch, hub: Any) -> None:
    fetch()
    asked = len(hub.requests)
    assert fetch() == 0
    assert len(hub.requests) == asked


@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_a_connection_that_is_cut_is_gone_on_with(
    fetch: Fetch, hub: Any, model: Path, place: Path, percent: int
) -> None:
    hub.troubles.cut_after = SIZE * percent // 100
    fetch()
    assert same(place, model)
    wanted = sum(path.stat().st_size for path in model.rglob("*") if path.suffix != ".bin")
    assert hub.sent <= wanted, "what had come was fetched again"
    assert f"bytes={hub.troubles.cut_after}-" in [asked for _, asked in hub.requests]


def test_a_server_that_always_gives_the_whole_file_is_borne(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.no_ranges = True
    staging(place).mkdir()
    (staging(place) / f"{WEIGHTS}.partial").write_bytes(b"what an earlier run left")
    fetch()
    assert same(place, model)


def test_a_run_that_was_killed_is_gone_on_with(
    hub: Any, model: Path, place: Path, tmp_path: Path, fetch: Fetch
) -> None:
    hub.troubles.hold_at = SIZE // 2
    first = process(hub, place, tmp_path, "--workers", "1")
    assert hub.troubles.held.wait(60)
    partial = staging(place) / f"{WEIGHTS}.partial"
    while not partial.exists() or partial.stat().st_size < SIZE // 4:
        time.sleep(0.01)
    first.kill()
    first.wait()
    there = partial.stat().st_size
    hub.troubles.hold_at = -1
    hub.troubles.go_on.set()
    fetch()
    assert same(place, model)
    assert f"bytes={there}-" in [asked for _, asked in hub.requests]


def test_a_flipped_byte_is_never_accepted_and_mended_by_running_again(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.flipped = {WEIGHTS}
    with pytest.raises(ModelError, match=rf"{WEIGHTS} is not what the hub says.*has the SHA-256"):
        fetch()
    assert not place.exists()
    hub.troubles.flipped = set()
    fetch()
    assert same(place, model)


def test_a_flipped_byte_of_a_small_file_is_not_accepted_either(fetch: Fetch, hub: Any) -> None:
    hub.troubles.flipped = {"config.json"}
    with pytest.raises(ModelError, match=r"config\.json is not what the hub says.*has the git id"):
        fetch()


def test_a_byte_that_flips_on_the_disk_of_a_partial_file_is_noticed(
    fetch: Fetch, model: Path, place: Path
) -> None:
    staging(place).mkdir()
    (staging(place) / f"{WEIGHTS}.partial").write_bytes(bytes(SIZE // 2))
    with pytest.raises(ModelError, match="It was removed; run again"):
        fetch()
    fetch()
    assert same(place, model)


def test_a_truncated_file_is_never_accepted_and_mended_by_running_again(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.short = {WEIGHTS: SIZE // 2}
    with pytest.raises(ModelError, match=r"broke off: .* 4 times in a row. What came is kept"):
        fetch()
    assert not place.exists()
    hub.troubles.short = {}
    fetch()
    assert same(place, model)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_storm_that_ends_is_sat_out(
    fetch: Fetch, hub: Any, model: Path, place: Path, status: int
) -> None:
    hub.troubles.answers = [(status, {}) for _ in range(3)]
    fetch()
    assert same(place, model)


def test_a_storm_in_the_middle_of_files_is_sat_out(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.only_files = True
    hub.troubles.cut_after = SIZE // 4
    hub.troubles.answers = [(503, {}), (429, {}), (502, {})]
    fetch()
    assert same(place, model)


@pytest.mark.parametrize("status", [429, 503])
def test_a_storm_without_end_ends_the_run(fetch: Fetch, hub: Any, status: int) -> None:
    hub.troubles.answers = [(status, {}) for _ in range(100)]
    with pytest.raises(ModelError, match=f"it answers {status}, 4 times in a row"):
        fetch()


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {"RateLimit": '"api";r=0;t=1'}])
def test_a_wait_that_the_hub_asks_for_is_kept(
    fetch: Fetch, hub: Any, model: Path, place: Path, headers: dict[str, str]
) -> None:
    hub.troubles.answers = [(429, headers)]
    start = time.monotonic()
    fetch()
    assert time.monotonic() - start >= 1
    assert same(place, model)


def test_a_wait_that_nobody_would_sit_out_ends_the_run(fetch: Fetch, hub: Any) -> None:
    hub.troubles.answers = [(429, {"Retry-After": "3600"})]
    with pytest.raises(ModelError, match=r"asks to wait 3600 s. Run again after that"):
        fetch()


def test_a_hub_that_does_not_answer_ends_the_run(fetch: Fetch) -> None:
    with pytest.raises(ModelError, match=r"from http://127\.0\.0\.1:9 broke off: ConnectError"):
        fetch("--endpoint", "http://127.0.0.1:9")


def test_a_token_that_is_revoked_in_the_middle_keeps_what_came(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.revoke_after = SIZE // 2
    with pytest.raises(ModelError, match=r"does not accept the token .* what came is kept"):
        fetch("--workers", "1")
    before = hub.sent
    assert before >= SIZE // 2
    hub.troubles.revoke_after = -1
    fetch()
    assert same(place, model)
    assert hub.sent - before < SIZE + SIZE // 2


def test_a_wrong_token_is_refused_before_anything_comes(
    fetch: Fetch, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(ModelError, match="does not accept the token") as refused:
        fetch()
    assert "another" not in str(refused.value)
    assert hub.sent == 0


def test_a_gated_model_is_refused_before_anything_large_comes(fetch: Fetch, hub: Any) -> None:
    hub.troubles.gated = True
    with pytest.raises(ModelError, match=r"open only to those who accepted its terms. Accept them"):
        fetch()
    assert files_asked_for(hub) == ["config.json"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--repository", "stub/nowhere", "knows no model stub/nowhere"),
        ("--revision", "0" * 40, "has no commit 0000000"),
    ],
)
def test_what_the_hub_does_not_know_is_refused(
    fetch: Fetch, hub: Any, option: str, value: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        fetch(option, value)
    assert hub.sent == 0


def test_a_revision_that_moved_is_refused(fetch: Fetch, hub: Any) -> None:
    hub.troubles.commit = "f" * 40
    with pytest.raises(ModelError, match=f"has the commit {'f' * 40} at {REVISION}"):
        fetch()
    assert files_asked_for(hub) == []


def test_a_repository_without_safetensors_is_refused(fetch: Fetch, hub: Any, model: Path) -> None:
    for path in model.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        fetch()
    assert files_asked_for(hub) == []


def test_a_mirror_that_tells_no_hashes_is_refused(fetch: Fetch, hub: Any) -> None:
    hub.troubles.no_hashes = True
    with pytest.raises(ModelError, match="tells no hash"):
        fetch()


def test_the_token_is_shown_to_nobody_but_the_hub(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    hub.troubles.elsewhere = True
    fetch()
    assert same(place, model)
    assert [path for path, _ in hub.requests if path.startswith("/elsewhere/")]


def test_too_small_a_disk_is_refused_with_numbers(
    fetch: Fetch, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ModelError, match=r"needs 1\.5 MB more and the disk of .* has 1\.0 MB free"):
        fetch()
    assert files_asked_for(hub) == []


def test_what_is_there_needs_no_space_again(
    fetch: Fetch, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging(place).mkdir()
    half = (model / WEIGHTS).read_bytes()[: SIZE * 3 // 4]
    (staging(place) / f"{WEIGHTS}.partial").write_bytes(half)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    fetch()
    assert same(place, model)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_fills_up_keeps_what_came(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", place.parent], check=True)
    try:
        hub.troubles.hold_at = SIZE // 2
        filler, partial = place.parent / "filler", staging(place) / f"{WEIGHTS}.partial"

        def fill() -> None:
            hub.troubles.held.wait()
            while not partial.exists() or not partial.stat().st_size:
                time.sleep(0.01)
            # More than the whole disk, so that it is full whatever came by then.
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(4 * 1024 * 1024))
            hub.troubles.go_on.set()

        filling = threading.Thread(target=fill)
        filling.start()
        with pytest.raises(ModelError, match=r"is full at .* Make room there and run again"):
            fetch("--workers", "1")
        filling.join()
        assert partial.stat().st_size > 0
        filler.unlink()
        fetch()
        assert same(place, model)
    finally:
        subprocess.run(["umount", place.parent], check=True)


def test_of_two_at_once_one_fetches_and_the_other_waits(
    hub: Any, model: Path, place: Path, tmp_path: Path
) -> None:
    hub.troubles.hold_at = SIZE // 2
    first = process(hub, place, tmp_path)
    assert hub.troubles.held.wait(60)
    second = process(hub, place, tmp_path)
    time.sleep(1)
    assert second.poll() is None
    hub.troubles.go_on.set()
    said = [each.communicate(timeout=60)[1] for each in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert same(place, model)
    assert sorted(files_asked_for(hub)) == sorted(set(files_asked_for(hub)))


def test_mending_brings_the_damaged_files_alone(
    fetch: Fetch, hub: Any, model: Path, place: Path
) -> None:
    fetch()
    (place / WEIGHTS).write_bytes(bytes(SIZE))
    (place / "config.json").unlink()
    hub.requests.clear()
    assert fetch() == 0
    assert not hub.requests, "what is there is read on request alone"
    fetch("--again")
    assert same(place, model)
    assert sorted(files_asked_for(hub)) == ["config.json", WEIGHTS]
    assert sorted(path.name for path in place.parent.iterdir()) == [
        f".{place.name}.lock", place.name,
    ]  # fmt: skip
    hub.requests.clear()
    fetch("--again")
    assert not hub.requests


def test_how_far_it_is_can_be_read_while_it_goes_on(hub: Any, place: Path, tmp_path: Path) -> None:
    hub.troubles.bytes_a_second = 500_000
    running = process(hub, place, tmp_path)
    seen = set()
    while running.poll() is None:
        path = place.with_name(f".{place.name}.progress.json")
        if path.exists():
            seen.add(json.loads(path.read_text())["text"])
        time.sleep(0.05)
    assert running.returncode == 0
    assert any(re.search(r" of 1\.5 MB, .*[kM]B/s, less than", text) for text in seen), seen
    assert not path.exists()
