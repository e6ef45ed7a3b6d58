"""Asking an engine from the command line, whatever serves it: vLLM itself, or infbox's gateway."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "INFBOX_API_KEY"
"""Where the API key is taken from, if the engine wants one."""

_SECONDS = 900.0  # a long prompt on a slow machine
_MOST_BYTES = 64 << 20  # of an answer
_TOLD = 500  # bytes of a refusal


class Engine:
    """An engine at an address.

    Args:
        url: what comes before ``/v1/…``. A certificate that the system does not know is named by
            ``SSL_CERT_FILE``.

    Raises:
        InputError: it is no address of HTTP.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"--engine {url}: give an address with http:// or https://")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request and return the answer.

        Args:
            path: from ``/v1`` on.
            body: is sent as JSON.

        Raises:
            InputError: no answer came, or a refusal, or no JSON.
        """
        key = os.environ.get(KEY)
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310  # checked
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=_SECONDS, context=ssl.create_default_context()
            ) as answer:
                return json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            said = error.read(_TOLD).decode(errors="replace")
            raise InputError(
                f"--engine {self.url}: status {error.code}: {said}: look at --model, --budget and "
                f"the variable {KEY}"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"--engine {self.url}: {error}: is it running?") from error

    def answer(self, model: str, pack: str, question: str, most: int) -> str:
        """Return what a model answers to a question, by its most likely words.

        Args:
            model: the name that it is served by.
            pack: stands before all else, as the gateway puts it.
            question: with what was found for it in front.
            most: tokens of the answer.

        Raises:
            InputError: as ``post`` does.
        """
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": pack},
                {"role": "user", "content": question},
            ],
            "temperature": 0,
            "max_tokens": most,
        }
        try:
            found = self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"--engine {self.url}: its answer has no message") from error
        return str(found or "")
