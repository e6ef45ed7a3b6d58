"""llm, the command, by the file that is printed for it."""

import os
import subprocess
import sys
from pathlib import Path

from report import MODEL, QUESTION, RESULT, TOKENS, NotForcedError, check

LLM = str(Path(sys.executable).with_name("llm"))
FUNCTION = f"def look_up(word: str) -> str:\n    return {RESULT!r}\n"
LIMIT = ("-o", "max_tokens", str(TOKENS))


def run(*arguments: str, said: str | None = None) -> str:
    """Run llm and return what it prints."""
    done = subprocess.run(
        [LLM, *arguments], input=said or "", check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-400:])
    return done.stdout


def tool() -> str:
    run("-m", MODEL, "--functions", FUNCTION, *LIMIT, QUESTION)
    raise NotForcedError("the tool is sent; llm has no way to have it called")


def models() -> str:
    listed = [line for line in run("models").splitlines() if MODEL in line]
    return "".join(listed) and f"its own list, of the file: {listed[0]}"


place = Path(run("logs", "path").strip()).parent
place.mkdir(parents=True, exist_ok=True)
(place / "extra-openai-models.yaml").write_text(os.environ["INFBOX_CLIENT_TEXT"])
run("keys", "set", "infbox", said=os.environ["INFBOX_CLIENT_KEY"] + "\n")
check("answer", lambda: run("-m", MODEL, "--no-stream", *LIMIT, QUESTION))
check("stream", lambda: run("-m", MODEL, *LIMIT, QUESTION))
check("tool", tool)
check("models", models)
