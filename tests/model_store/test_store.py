"""The folder of all models: what is put there, copied there, verified, listed and removed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub._local_folder import write_download_metadata
from infbox_model import __main__ as command_line
from infbox_model import store
from infbox_model.files import DamagedError, File, ModelError, blob_id, check, files_below, sha256
from infbox_model.progress import Progress, amount, duration, follow, sentence

from tests.model_store.conftest import REPOSITORY, REVISION, WEIGHTS, Fetch, same
from tests.plugins.plugin_files import ROOT

UNUSED = "someone--else-000000000000"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / ".model.part"
    (folder / "sub").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "sub/more"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)
    return folder


def command(*words: str | Path) -> int:
    return command_line.run(command_line.parser().parse_args([str(word) for word in words]))


def adopt(place: Path) -> int:
    return command("adopt", "--repository", REPOSITORY, "--revision", REVISION, "--place", place)


def put(place: Path) -> None:
    """Put a model to its place whose files are names only."""
    staging = store.beside(place, "part")
    shutil.rmtree(staging, ignore_errors=True)

    def make(folder: Path) -> list[File]:
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).write_text(name)
        return files_below(folder)

    said = {"source": "hub", "repository": "someone/else", "revision": "0" * 40}
    store.put(place, staging, said, make)


def from_image(source: Path, place: Path) -> int:
    named = ("--repository", REPOSITORY, "--revision", "0.1.2")
    return command("image", "--source", source, *named, "--place", place)


def test_a_model_is_copied_out_of_the_image(staging: Path, tmp_path: Path) -> None:
    place = tmp_path / "store" / "model"
    # What an interrupted run left is no part of it.
    left = store.beside(place, "part")
    left.mkdir(parents=True)
    (left / "old.safetensors").write_text("old")
    assert from_image(staging, place) == 0
    said = json.loads((place / "infbox-model.json").read_text())
    assert (said["source"], said["repository"], said["revision"]) == ("image", REPOSITORY, "0.1.2")
    assert [file["path"] for file in said["files"]] == [
        "config.json", "model.safetensors", "sub/more", "tokenizer.json",
    ]  # fmt: skip
    assert (place / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert not left.exists()
    assert store.verify(tmp_path / "store", tmp_path / "progress.json") == []


def test_a_model_that_the_image_has_not_is_refused_by_name(staging: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"carries no model other; it has \.model\.part, "):
        from_image(staging.with_name("other"), tmp_path / "store" / "model")
    assert not (tmp_path / "store" / "model").exists()


def test_a_model_takes_its_place_with_its_hashes(staging: Path, tmp_path: Path) -> None:
    files = files_below(staging)
    store.finish(staging, tmp_path / "model", {"source": "hub", "revision": "abc"}, files)
    said = json.loads((tmp_path / "model" / "infbox-model.json").read_text())
    assert (said["source"], said["revision"]) == ("hub", "abc")
    assert said["bytes"] == sum(len(file["path"]) for file in said["files"])
    assert [file["path"] for file in said["files"]] == [
        "config.json", "model.safetensors", "sub/more", "tokenizer.json",
    ]  # fmt: skip
    assert not staging.exists()


def test_the_engines_user_can_read_all_of_it(staging: Path, tmp_path: Path) -> None:
    store.finish(staging, tmp_path / "model", {}, files_below(staging))
    for path in (tmp_path / "model").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (File("config.json", 10), "has 11 bytes in place of 10"),
        (File("config.json", 11, sha256="00"), "has the SHA-256 .* in place of 00"),
        (File("config.json", 11, blob="00"), "has the git id .* in place of 00"),
        (File("weights", 1), "weights is missing"),
    ],
)
def test_a_file_that_is_another_one_is_refused(staging: Path, expected: File, message: str) -> None:
    with pytest.raises(DamagedError, match=message):
        check(staging / expected.path, expected)


def test_gits_id_is_the_one_that_git_gives(staging: Path) -> None:
    said = subprocess.check_output(["git", "hash-object", staging / "config.json"], text=True)
    assert blob_id(staging / "config.json") == said.strip()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_no_model_is_refused(staging: Path, tmp_path: Path, name: str) -> None:
    suffix = name if name.endswith(".json") else r"\*.safetensors"
    files = [file for file in files_below(staging) if file.path != name]
    with pytest.raises(ModelError, match=f"has no {suffix}"):
        store.put(tmp_path / "model", staging, {}, lambda _part: files)


@pytest.mark.parametrize("path", ["../config.json", "/etc/passwd"])
def test_a_file_outside_of_the_models_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelError, match="outside of its folder"):
        store.put(tmp_path / "model", tmp_path / "part", {}, lambda _part: [File(path, 1)])


def test_a_model_that_is_there_is_left_alone(place: Path) -> None:
    put(place)
    before = sorted(path.stat().st_mtime_ns for path in place.rglob("*"))
    put(place)
    assert sorted(path.stat().st_mtime_ns for path in place.rglob("*")) == before


def test_a_folder_of_somebody_else_is_left_alone(place: Path) -> None:
    place.mkdir()
    with pytest.raises(ModelError, match=r"was not made here\. Move it away"):
        put(place)


def test_a_copy_of_another_hosts_model_is_verified_by_its_marker(
    fetch: Fetch, model: Path, place: Path, tmp_path: Path
) -> None:
    fetch()
    other = tmp_path / "other" / place.name
    shutil.copytree(place, store.beside(other, "upload"))
    assert adopt(other) == 0
    assert same(other, model)
    assert json.loads((other / "infbox-model.json").read_text())["source"] == "copy"


def test_a_damaged_file_of_a_copy_is_removed_and_named(
    fetch: Fetch, model: Path, place: Path, tmp_path: Path
) -> None:
    fetch()
    other = tmp_path / "other" / place.name
    upload = store.beside(other, "upload")
    shutil.copytree(place, upload)
    (upload / WEIGHTS).write_bytes(bytes(1_000_000))
    with pytest.raises(ModelError, match=f"{WEIGHTS} has the SHA-256 .* only these files"):
        adopt(other)
    assert not (upload / WEIGHTS).exists() and not other.exists()
    shutil.copy(place / WEIGHTS, upload)
    adopt(other)
    assert same(other, model)


def test_a_copy_of_what_the_hubs_own_program_fetched_is_verified_by_its_notes(
    model: Path, place: Path
) -> None:
    upload = client_folder(model, place, REVISION)
    (upload / "left-over").write_text("of something else")
    assert adopt(place) == 0
    assert same(place, model)


def test_a_copy_of_another_commit_is_refused(model: Path, place: Path) -> None:
    client_folder(model, place, "f" * 40)
    with pytest.raises(ModelError, match=f"is of commit {'f' * 40}, and {REVISION} is wanted"):
        adopt(place)


def test_a_copy_of_another_model_is_refused(place: Path) -> None:
    other = place.with_name("other")
    put(other)
    other.rename(store.beside(place, "upload"))
    with pytest.raises(ModelError, match=r"is someone/else at 0000.*is wanted. Give the right"):
        adopt(place)


def test_a_copy_that_nothing_is_known_of_is_refused(model: Path, place: Path) -> None:
    shutil.copytree(model, store.beside(place, "upload"))
    with pytest.raises(ModelError, match=r"does not say what its files should be.*hf download"):
        adopt(place)


def client_folder(model: Path, place: Path, commit: str) -> Path:
    """Make the folder that `hf download --local-dir` would, in the form that the client reads."""
    upload = store.beside(place, "upload")
    shutil.copytree(model, upload, ignore=shutil.ignore_patterns("*.bin"))
    for path in [path for path in upload.rglob("*") if path.is_file()]:
        etag = sha256(path) if path.suffix == ".safetensors" else blob_id(path)
        write_download_metadata(upload, str(path.relative_to(upload)), commit, etag)
    return upload


def test_the_command_that_verifies_names_what_is_damaged(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place)
    assert command("verify", "--store", place.parent) == 0
    (place / "model.safetensors").write_text("model.SAFETENSORS")
    (place / "config.json").unlink()
    assert command("verify", "--store", place.parent) == 1
    said = capsys.readouterr().out
    assert f"{place}: model.safetensors has the SHA-256" in said
    assert f"{place}: config.json is missing" in said


def test_the_list_says_what_is_there_and_who_uses_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place)
    put(place.with_name(UNUSED))
    (place.with_name(".third.download")).mkdir()
    fragment = tmp_path / "vllm.yml"
    fragment.write_text(f'command: ["serve", "{place}"]\nvolumes:\n  - "{place}:{place}:ro"\n')
    command("list", "--store", place.parent, "--named-in", tmp_path / "*.yml")
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[place.name]["used_by"] == [str(fragment)]
    assert entries[UNUSED]["used_by"] == []
    assert entries[UNUSED]["bytes"] == len("config.jsontokenizer.jsonmodel.safetensors")
    assert entries[UNUSED]["verified"].startswith("20")
    assert entries[".third.download"]["source"] == "unfinished"


def test_what_nothing_uses_goes_and_only_on_request(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [place.name, f"{place.name}-longer", "kept", "unknown"]
    for name in names[:3]:
        put(place.with_name(name))
    place.with_name("unknown").mkdir()
    place.with_name(".third.download").mkdir()
    (tmp_path / "vllm.yml").write_text(f"command: [serve, {place}-longer/sub]\n")
    options = ["--store", str(place.parent), "--named-in", f"{tmp_path}/*.yml", "--keep", "kept"]

    command("prune", *options, "--pretend")
    assert all(place.with_name(name).exists() for name in names)
    command("prune", *options)
    pretended, removed = capsys.readouterr().out.splitlines()
    assert pretended == removed
    assert [entry["name"] for entry in json.loads(removed)] == [place.name, ".third.download"]
    assert [place.with_name(name).exists() for name in names] == [False, True, True, True]
    assert not place.with_name(".third.download").exists()


def test_what_a_run_is_at_work_on_is_not_removed(place: Path) -> None:
    partial = store.beside(place, "download")
    partial.mkdir()
    hold = (
        "import sys; from pathlib import Path; from infbox_model import store;\n"
        "with store.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "roles/model_store/files")}
    with subprocess.Popen(
        [sys.executable, "-c", hold, place],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert store.prune(place.parent, [], [], pretend=False) == []
        assert partial.exists()
        holder.communicate()
    assert [entry["name"] for entry in store.prune(place.parent, [], [], pretend=False)]
    assert not partial.exists()


def test_the_lock_is_one_that_hosts_share(place: Path) -> None:
    with store.locked(place), store.beside(place, "lock").open("w") as other:
        # The kernel's POSIX locks are per process: the same one may take it twice.
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("done", "total", "rate", "trouble", "text"),
    [
        (12_300_000_000, 30_100_000_000, 118e6, "",
         "12.3 GB of 30.1 GB, 40 %, 118.0 MB/s, about 3 min left"),
        (0, 482_000_000_000, 20e6, "",
         "0 bytes of 482.0 GB, 0 %, 20.0 MB/s, about 6.7 h left"),
        (5, 10, 0, "it answers 503, next try in 8 s",
         "5 bytes of 10 bytes, 50 %, it answers 503, next try in 8 s"),
        (10, 10, 4, "", "10 bytes of 10 bytes, 100 %, making sure that all is there"),
    ],
)  # fmt: skip
def test_the_line_says_how_far_and_how_long(
    done: int, total: int, rate: float, trouble: str, text: str
) -> None:
    assert sentence(done, total, rate, trouble) == text


def test_the_rate_is_of_the_last_half_minute(tmp_path: Path) -> None:
    now = [0.0]
    progress = Progress(tmp_path / "progress", 10_000_000, 1_000_000, clock=lambda: now[0])
    assert progress.line() == "1.0 MB of 10.0 MB, 10 %"
    for second in range(1, 101):
        now[0] = second
        progress.add(40_000 if second > 60 else 1000)
        line = progress.line()
    assert "40.0 kB/s" in line


def test_amounts_and_times_are_as_people_read_them() -> None:
    assert [amount(3), amount(4200), amount(2 * 10**12)] == ["3 bytes", "4.2 kB", "2.0 TB"]
    assert [duration(5), duration(100), duration(7200)] == [
        "less than a minute", "about 2 min", "about 2.0 h",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "running", "status"),
    [("sleep 5", True, None), ("echo 0", False, 0), ("echo 1", False, 1), ("exit 1", False, None)],
)
def test_following_tells_whether_it_ended_and_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, running: bool, status: int | None
) -> None:
    stub_docker = tmp_path / "docker"
    stub_docker.write_text(f"#!/bin/sh\n{script}\n")
    stub_docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "progress").write_text('{"text": "12 of 30"}')
    said = follow("container", tmp_path / "progress", 0.5)
    assert (said["running"], said["status"]) == (running, status)
    assert (said["text"] == "12 of 30") == running
