"""A model as judge: what it is asked, and how its answers are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from infbox.cli import watch
from infbox.evaluation.engine import KEY
from serving import serving
from trees import fill, git


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer whose tokens are characters."""
    characters = {chr(code): code for code in range(128)}
    made = Tokenizer(models.WordLevel(characters, unk_token="\0"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    return file


@pytest.fixture
def history(repo: Path) -> Path:
    """A commit that writes in one file what another one has."""
    fill(repo, {"shop.py": "x = 1\n", "rates.py": "rounding_of_prices = 'half_even_always'\n"})
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "begin")
    fill(repo, {"shop.py": "x = 1\ny = 'half_even_always'\n"})
    git(repo, "commit", "--quiet", "--all", "--message", "Apply the rounding of prices")
    return repo


class Engine:
    """Expects a token after two others as it has read it before, and else is surprised."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.keys: list[str | None] = []
        self.tells = True
        self.chats: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def chat(self, request: Request) -> JSONResponse:
        self.chats.append(await request.json())
        return JSONResponse({"choices": [{"message": {"content": "By half, to even."}}]})

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.keys.append(request.headers.get("authorization"))
        tokens: list[int] = body["prompt"]
        text = "".join(map(chr, tokens))
        self.prompts.append(text)
        told: list[dict[str, Any] | None] = [None]
        for at in range(1, len(tokens)):
            is_known = text[max(at - 2, 0) : at + 1] in text[:at]
            told.append({str(tokens[at]): {"logprob": -1.0 if is_known else -3.0}})
        choice = {"text": "", "prompt_logprobs": told if self.tells else None}
        assert (body["max_tokens"], body["prompt_logprobs"]) == (1, 0)
        return JSONResponse({"choices": [choice]})


def asked(history: Path, words: Path, url: str) -> list[str]:
    numbers = ["--commits", "1", "--budget", "2000", "--retrieve", "500"]
    engine = ["--engine", url, "--model", "coder", "--tokenizer", str(words)]
    return ["evaluate", str(history), *numbers, *engine]


def test_a_context_that_has_the_new_lines_makes_them_less_surprising(
    history: Path,
    words: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY, "secret")
    engine = Engine()
    with serving(engine.app) as url:
        assert watch([*asked(history, words, url), "--json"]) == 0
        judged = json.loads(capsys.readouterr().out)["judge"]
        assert watch(asked(history, words, url)) == 0
    target = "y = 'half_even_always'\n"
    assert (judged["samples"], judged["tokens"]) == (1, len(target))
    none, pack, retrieved, both = engine.prompts[:4]
    assert none == f"Apply the rounding of prices\n\n# shop.py\n{target}"
    assert all(prompt.endswith(none) for prompt in engine.prompts)
    assert all("rounding_of_prices = 'half" in prompt for prompt in (pack, retrieved, both))
    nll = judged["nll"]
    assert 1.0 <= nll["retrieved"] < nll["none"] <= 3.0
    assert nll["pack"] < nll["none"]
    assert judged["better"] == {"pack": 1.0, "retrieved": 1.0, "both": 1.0}
    assert set(engine.keys) == {"Bearer secret"}
    assert f"none {nll['none']:.3f}" in capsys.readouterr().out


def test_an_engine_that_cannot_judge_is_refused_with_what_to_do(
    history: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine()
    engine.tells = False
    with serving(engine.app) as url:
        assert watch(asked(history, words, url)) == 2
        assert "has no prompt_logprobs of the new lines" in capsys.readouterr().err
        assert watch(asked(history, words, f"{url}/elsewhere")) == 2
        assert "status 404" in capsys.readouterr().err
    assert watch(asked(history, words, url)) == 2
    assert "is it running?" in capsys.readouterr().err
    assert watch(asked(history, words, "ftp://engine")) == 2
    assert "http://" in capsys.readouterr().err
    assert watch(asked(history, words, url)[:-2]) == 2
    assert "give --tokenizer FILE" in capsys.readouterr().err


def test_a_model_answers_with_what_is_shown(
    history: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = "".join(f"filler_{number} = {number}\n" for number in range(300))
    fill(history, {"taxes.py": f"{others}\n\ndef vat_of_books():\n    return 7\n"})
    engine = Engine()
    numbers = ["--budget", "800", "--retrieve", "300", "--model", "small", "--answer", "50"]
    with serving(engine.app) as url:
        asked = ["ask", str(history), "What does `vat_of_books` return?", "--show"]
        assert watch([*asked, *numbers, "--engine", url]) == 0
    shown = capsys.readouterr().out
    assert "vat_of_books is named and defined here" in shown
    assert shown.endswith("answer of small\n\nBy half, to even.\n")
    (chat,) = engine.chats
    assert (chat["model"], chat["max_tokens"], chat["temperature"]) == ("small", 50, 0)
    system, user = chat["messages"]
    assert "half_even_always" in system["content"]
    assert user["content"].startswith("# From the source tree, found for the question")
    assert "return 7" in user["content"]
    assert user["content"].endswith("What does `vat_of_books` return?")
