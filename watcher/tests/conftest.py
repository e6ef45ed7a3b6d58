"""What the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, settings

from forge import Forge, forge
from gateway_stack import Stack, running
from infbox.packing import tokens
from trees import git

settings.register_profile(
    "infbox",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("infbox")


@pytest.fixture(autouse=True)
def _own_git_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own git configuration out."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """An empty git repository."""
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "--quiet")
    return root


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Forge]:
    """A forge of its own."""
    (tmp_path / "forge").mkdir()
    with forge(tmp_path / "forge") as running_forge:
        yield running_forge


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A gateway in front of a fake engine."""
    with running(tmp_path) as both:
        yield both


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokens.Tokenizer:
    """A tokenizer as large models have them, trained on a few lines."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    library.train_from_iterator(
        ["def main():\n    return 1\n", "## a.py (changed)\n```\n"], trainer
    )
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library.save(str(file))
    return tokens.load(file)
