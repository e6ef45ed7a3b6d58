"""The script that puts a model into its place; molecule proves what needs the engine image."""

import argparse
import json
from pathlib import Path

import pytest

from tests.plugins.plugin_files import ROOT, load_file

infbox_model = load_file(ROOT / "roles/model_store/files/infbox_model.py")
File = infbox_model.File
ModelError = infbox_model.ModelError


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / ".model.part"
    (folder / "sub").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "sub/more"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)
    return folder


def test_a_model_takes_its_place_with_its_hashes(staging: Path, tmp_path: Path) -> None:
    files = infbox_model.files_below(staging)
    infbox_model.finish(staging, tmp_path / "model", {"source": "hub", "revision": "abc"}, files)
    said = json.loads((tmp_path / "model" / "infbox-model.json").read_text())
    assert (said["source"], said["revision"]) == ("hub", "abc")
    assert said["bytes"] == sum(len(file["path"]) for file in said["files"])
    assert [file["path"] for file in said["files"]] == [
        "config.json", "model.safetensors", "sub/more", "tokenizer.json",
    ]  # fmt: skip
    assert not staging.exists()


def test_the_engines_user_can_read_all_of_it(staging: Path, tmp_path: Path) -> None:
    infbox_model.finish(staging, tmp_path / "model", {}, infbox_model.files_below(staging))
    for path in (tmp_path / "model").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_a_file_that_is_missing_is_refused(staging: Path) -> None:
    with pytest.raises(ModelError, match="weights is missing after the download"):
        infbox_model.verify(infbox_model.files_below(staging), [File("weights", 1, "")])


@pytest.mark.parametrize("expected", [File("config.json", 10, ""), File("config.json", 11, "00")])
def test_a_file_of_another_size_or_hash_is_refused(staging: Path, expected: object) -> None:
    with pytest.raises(ModelError, match=r"config\.json is not what the hub says"):
        infbox_model.verify(infbox_model.files_below(staging), [expected])


def test_files_that_are_as_expected_pass(staging: Path) -> None:
    files = infbox_model.files_below(staging)
    infbox_model.verify(files, [*files, File("config.json", 11, "")])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_no_model_is_refused(staging: Path, name: str) -> None:
    (staging / name).unlink()
    suffix = name if name.endswith(".json") else r"\*.safetensors"
    with pytest.raises(ModelError, match=f"has no {suffix}"):
        infbox_model.require_model(infbox_model.files_below(staging))


def test_a_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "infbox-model.json").touch()
    infbox_model.put(argparse.Namespace(place=tmp_path, source="random", seed=0))
    assert [path.name for path in tmp_path.iterdir()] == ["infbox-model.json"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with pytest.raises(ModelError, match=r"was not made here\. Move it away"):
        infbox_model.put(argparse.Namespace(place=tmp_path, source="random", seed=0))
