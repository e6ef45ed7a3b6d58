"""A client of a deployed host, on the official `openai` library: asking, timing, looking."""

import ssl
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
from tokenizers import Tokenizer

from lab.deployment import Endpoint, ssh, wait_for
from lab.hosts import Host
from lab.shell import LabError

QUESTION = "What is this source tree for? Answer in one sentence."
ANSWER_TOKENS = 8


class BrokenOffError(Exception):
    """A stream ended before the answer did, and without an error of the API's."""


@dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Attributes:
        first_token: seconds until the first token came.
        prompt_tokens: tokens of the prompt, pack included.
        cached_tokens: how many of them were not computed anew.
        text: the answer.
    """

    first_token: float
    prompt_tokens: int
    cached_tokens: int
    text: str


class Client:
    """Asks questions of one host.

    Args:
        endpoint: the host.
        workspace: the workspace that `MODEL@WORKSPACE` names.
        model: the model's served name.
        keep_alive: use a connection for more than one question.
    """

    def __init__(
        self, endpoint: Endpoint, workspace: str, model: str = "coder", *, keep_alive: bool = True
    ) -> None:
        self.model = model
        self.workspace = workspace
        context = ssl.create_default_context(cafile=str(endpoint.authority))
        self.openai = openai.OpenAI(
            base_url=endpoint.url,
            api_key=endpoint.key,
            max_retries=0,
            timeout=300,
            default_headers={} if keep_alive else {"Connection": "close"},
            http_client=openai.DefaultHttpxClient(verify=context),
        )

    def ask(
        self,
        question: str = QUESTION,
        *,
        cold: bool = False,
        tokens: int = ANSWER_TOKENS,
        tell: Callable[[str], None] = lambda _piece: None,
    ) -> Answer:
        """Ask about the workspace, streaming.

        Args:
            question: what to ask.
            cold: have nothing found in any cache, by a salt that no request had before.
            tokens: the most that the answer may have.
            tell: given each piece of the answer as it comes.

        Raises:
            openai.APIError: it was not answered.
            BrokenOffError: it was, in part.
        """
        extra = {"cache_salt": uuid.uuid4().hex} if cold else {}
        start = time.monotonic()
        first = 0.0
        pieces = []
        usage: Any = None
        stream = self.openai.chat.completions.create(
            model=f"{self.model}@{self.workspace}",
            messages=[{"role": "user", "content": question}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.monotonic() - start
                pieces.append(chunk.choices[0].delta.content)
                tell(pieces[-1])
            usage = chunk.usage or usage
        if usage is None:
            raise BrokenOffError("the last event of the stream is missing")
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        return Answer(first, usage.prompt_tokens, cached or 0, "".join(pieces))

    def prompt(self, tokenizer: Tokenizer) -> str:
        """Return a question's prompt as vLLM saw it, from the token ids it reports itself."""
        return str(tokenizer.decode(self.prompt_ids(), skip_special_tokens=False))

    def prompt_ids(self) -> list[int]:
        """Return the token ids of a question's prompt, as vLLM reports them."""
        answer = self.openai.chat.completions.create(
            model=f"{self.model}@{self.workspace}",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=1,
            extra_body={"return_token_ids": True},
        )
        ids: list[int] = (answer.model_extra or {})["prompt_token_ids"]
        return ids

    def status(self) -> dict[str, Any]:
        """Return what gateway and watcher say of the workspace."""
        status: dict[str, Any] = self.openai.get(
            f"/workspaces/{self.workspace}/status", cast_to=dict[str, Any]
        )
        return status

    def wait_until_warm(self, timeout: float = 300.0) -> dict[str, Any]:
        """Wait until the whole pack is in the cache, and return the status that says so."""
        return self.wait_for_status("The pack being warm", bool, timeout)

    def wait_until_saved(self, since: float, timeout: float = 120.0) -> dict[str, Any]:
        """Wait until a save made at `since`, in seconds of Unix time, is warm."""

        def seen(status: dict[str, Any]) -> bool:
            return bool(status["last_save"] and status["last_save"] >= since)

        return self.wait_for_status("The save being warm", seen, timeout)

    def wait_for_status(
        self, what: str, accept: Callable[[dict[str, Any]], bool], timeout: float
    ) -> dict[str, Any]:
        """Wait for a status that is warm in its newest version and that `accept` takes."""
        last: object = None

        def look() -> dict[str, Any] | None:
            nonlocal last
            try:
                last = status = self.status()["watcher"]
            except openai.APIError as error:
                last = error.__cause__ or error
                return None
            current = status and status["warm"] and status["warm_version"] == status["version"]
            return dict(status) if current and accept(status) else None

        try:
            return wait_for(what, look, timeout)
        except LabError as error:
            raise LabError(f"{error}; the last answer: {last}") from None


def fetch_tokenizer(host: Host) -> Tokenizer:
    """Return the tokenizer of the model that a host serves."""
    return Tokenizer.from_str(
        ssh(host, "cat $(ls -t /var/lib/infbox/models/*/tokenizer.json | head -1)")
    )
