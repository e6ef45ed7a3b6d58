"""The commands, as a person or a script runs them."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from xxhash import xxh3_128_hexdigest

from infbox import cli
from infbox.auth import usage
from infbox.cli import gateway, watch
from trees import fill, git


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer for which each word is a token."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_scan_prints_sorted_paths(repo: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    fill(repo, {"b.py": "", "a/c.py": "", "a.py": "", ".env": "x"})
    assert watch(["scan", str(repo)]) == 0
    assert capfdbinary.readouterr().out == b"a.py\na/c.py\nb.py\n"


def test_scan_as_json(repo: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo, {"a.py": "one two three\n"})
    assert watch(["scan", str(repo), "--json", "--tokenizer", str(tokenizer)]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"path": "a.py", "size": 14, "hash": xxh3_128_hexdigest(b"one two three\n"), "tokens": 3}
    ]


def test_tokens_are_estimated_without_a_tokenizer(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(repo, {"a.py": "x" * 43})
    watch(["scan", str(repo), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["tokens"] == 10


@pytest.mark.parametrize("path", ["d/.env", "./d/../d/.env"])
def test_scan_says_why(repo: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo, {"d/.env": "x"})
    assert watch(["scan", str(repo), "--why", path]) == 0
    assert capsys.readouterr().out == "left out: secret by name: .env*\n"


def test_scan_judges_by_the_rules_of_the_service(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    words.add_special_tokens(["<|end|>"])
    words.save(str(tmp_path / "model.json"))
    config = tmp_path / configured(tmp_path, 1)
    content = yaml.safe_load(config.read_text())
    content["engine"]["tokenizer"] = str(tmp_path / "model.json")
    content["watcher"]["max_file_bytes"] = 20
    config.write_text(yaml.safe_dump(content))
    fill(repo, {"a.py": "x = '<|end|>'\n", "b.py": "b" * 21, "c.py": "c"})

    def why(path: str, *how: str) -> tuple[str, str]:
        assert watch(["scan", str(repo), "--why", path, *how]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    refused = "left out: it holds the model's control token <|end|>\n"
    for how in (["--config", str(config)], ["--tokenizer", str(tmp_path / "model.json")]):
        assert why("a.py", *how) == (refused, "")
    assert why("b.py", "--config", str(config))[0] == "left out: larger than 20 bytes\n"
    said, warned = why("a.py")
    assert said.startswith("kept")
    assert "control tokens were not looked for" in warned
    monkeypatch.setattr(cli, "_CONFIG", config)
    assert why("a.py") == (refused, "")
    assert watch(["scan", str(repo)]) == 0
    assert capsys.readouterr().out == "c.py\n"


def test_pack_prints_the_text_or_facts_about_it(
    repo: Path, tokenizer: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    fill(repo, {"a.py": "ä\n", "b.py": "b\n" * 500})
    counting = ["--tokenizer", str(tokenizer)]
    assert watch(["pack", str(repo), "--budget", "400", *counting]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.endswith("## a.py\n```\nä\n```\n")
    assert watch(["pack", str(repo), "--budget", "400", "--stats", *counting]) == 0
    assert json.loads(capfdbinary.readouterr().out) == {
        "files": 1,
        "of_files": 2,
        "tokens": len(text.split()),
        "budget": 400,
    }


def test_a_pack_over_a_base_says_what_it_shares(
    repo: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    mine = fill(tmp_path / "mine", {"a.py": "a\n", "b.py": "b2\n"})
    assert watch(["pack", str(repo), "--budget", "8000"]) == 0
    base = capfdbinary.readouterr().out
    over = ["pack", str(mine), "--budget", "10000", "--base", str(repo)]
    assert watch(over) == 0
    assert capfdbinary.readouterr().out == base + b"## b.py (changed)\n```\nb2\n```\n"
    assert watch([*over, "--stats"]) == 0
    stats = json.loads(capfdbinary.readouterr().out)
    assert 0 < stats["tokens"] - stats["shared_tokens"] < 20


def test_pack_is_the_same_each_time(repo: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    fill(repo, {f"{n}.py": f"{n}\n" for n in range(50)})
    texts = []
    for _ in range(2):
        watch(["pack", str(repo), "--budget", "9000"])
        texts.append(capfdbinary.readouterr().out)
    assert texts[0] == texts[1]


def mistaken(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert watch(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error


def test_mistakes_are_one_line(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(repo, {"a.py": ""})
    fill(tmp_path, {"bad.json": "{}"})
    scan = ["scan", str(repo)]
    assert "/none: not a directory" in mistaken(["scan", "/none"], capsys)
    assert "not inside" in mistaken([*scan, "--why", "../x"], capsys)
    bad = ["--json", "--tokenizer", str(tmp_path / "bad.json")]
    assert "bad.json: no tokenizer" in mistaken([*scan, *bad], capsys)
    assert "none.yml: No such file" in mistaken(["run", "--config", "none.yml"], capsys)


def test_a_repository_that_git_cannot_read_is_said_so(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(repo, {".git/config": "[core"})
    assert "bad config" in mistaken(["scan", str(repo)], capsys)


def test_an_own_ignore_file_that_cannot_be_read_is_said_so(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(repo, {".infboxignore": "!\n"})
    assert ".infboxignore" in mistaken(["scan", str(repo)], capsys)


def configured(tmp_path: Path, port: int) -> str:
    config = {
        "state_dir": str(tmp_path / "state"),
        "engine": {"url": "http://127.0.0.1:1", "model": "coder", "max_model_len": 9000},
        "watcher": {"listen": f"127.0.0.1:{port}"},
        "gateway": {"listen": f"127.0.0.1:{port}"},
    }
    (tmp_path / "watcher.yml").write_text(yaml.safe_dump(config))
    return str(tmp_path / "watcher.yml")


@pytest.mark.parametrize(
    ("command", "field"), [(watch, "watcher.listen"), (gateway, "gateway.listen")]
)
def test_a_port_that_is_taken_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: object, field: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert callable(command)
        assert command(["run", "--config", configured(tmp_path, port)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{field}: 127.0.0.1:{port}: " in error


def test_a_tree_that_is_not_there_yet_lets_the_service_manager_try_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(configured(tmp_path, 1))
    content = yaml.safe_load(file.read_text())
    content["workspaces"] = [{"name": "shop", "path": str(tmp_path / "later"), "budget": 5000}]
    file.write_text(yaml.safe_dump(content))
    assert watch(["run", "--config", str(file)]) == 1
    assert "later is not a directory" in capsys.readouterr().err


def test_nothing_of_the_tree_is_written(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo, {"a.py": "a\n", "d/b.py": "b\n"})
    git(repo, "add", ".")

    def stamps() -> dict[Path, tuple[int, int]]:
        found = [repo, *repo.rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in found}

    (repo / "a.py").touch()  # so that git would like to refresh its index
    before = stamps()
    watch(["scan", str(repo)])
    watch(["scan", str(repo), "--why", "a.py"])
    watch(["pack", str(repo), "--budget", "500"])
    assert stamps() == before


def counted_by(tmp_path: Path) -> Path:
    """A configuration, and what a gateway of it counted."""
    engine = {"url": "http://127.0.0.1:9", "model": "coder", "max_model_len": 1000}
    file = tmp_path / "watcher.yml"
    file.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "engine": engine}))
    store = usage.Store(usage.file_in(tmp_path / "state"))
    for day in ("2027-01-30", "2027-01-31"):
        store.add({usage.Key(day, "ann", ""): usage.Counts(3, 1, 2000, 1500, 40)})
    store.close()
    return file


def test_usage_is_printed_by_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = counted_by(tmp_path)
    assert gateway(["usage", "--config", str(file)]) == 0
    names, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert tuple(names) == usage.COLUMNS
    assert rows[1] == ["2027-01-31", "ann", "-", "3", "1", "2000", "1500", "40"]
    assert gateway(["usage", "--config", str(file), "--days", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == dict(
        zip(usage.COLUMNS, ("2027-01-31", "ann", "", 3, 1, 2000, 1500, 40), strict=True)
    )


def test_usage_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = counted_by(tmp_path)
    usage.file_in(tmp_path / "state").write_text("no database" * 100)
    assert gateway(["usage", "--config", str(file)]) == 2
    assert "usage.db: file is not a database: run it as root" in capsys.readouterr().err
