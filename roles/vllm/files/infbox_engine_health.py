"""Say whether the engine completes prompts: the health check of its container.

vLLM's own `/health` says that its API process lives. One whose engine core hangs, or waits for a
GPU that does not answer, says so too, takes requests and completes none. So a completion of one
token is asked for, before everybody's own. It may wait for long all the same, since a prompt that
is being computed takes all of each step until its last token: as long as anything of the engine's
counters moves, it works. It hangs where for some time no completion came and none of them moved.

Where they have moved since the last check, nothing is asked for. What the last check saw is kept
in a file, so that after a hang the next checks need not wait for as long again.

Docker runs this within the container, as text: it needs nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# What the engine core alone moves, step by step. KV of a long prompt is taken as it is computed,
# and its tokens are counted once it is whole.
MOVED_BY_THE_CORE = (
    "vllm:num_requests_running{",
    "vllm:num_requests_waiting{",
    "vllm:num_requests_kv_fetch_by_stage{",
    "vllm:kv_cache_usage_perc{",
    "vllm:prefix_cache_queries_total{",
    "vllm:external_prefix_cache_queries_total{",
    "vllm:num_preemptions_total{",
    "vllm:prompt_tokens_total{",
    "vllm:generation_tokens_total{",
    "vllm:iteration_tokens_total_count{",
)
PROVEN_SECONDS = 30.0  # that a completion proves it for, while nothing else is done
METRICS_SECONDS = 10.0
LOOK_SECONDS = 1.0
AFTER_A_HANG_SECONDS = 5.0
SERVER_ERROR = 500


class UnhealthyError(Exception):
    """Why the engine is not healthy."""


class HungError(UnhealthyError):
    """It takes requests, and completes none."""


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Attributes:
        counters: a digest of those of the engine core.
        proven: when it last completed something or moved, on the monotonic clock.
        hung: whether it did neither.
    """

    counters: str = ""
    proven: float = 0.0
    hung: bool = False


class Completion:
    """A completion of one token that is being waited for.

    Args:
        url: of vLLM.
        model: its served name.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self.came = threading.Event()
        self.error = ""
        """What is wrong, once it came."""
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        body = {"model": self._model, "prompt": ".", "max_tokens": 1, "priority": -1}
        request = urllib.request.Request(  # noqa: S310
            f"{self._url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as error:
            # A model that completes nothing, as one for embeddings, refuses; it is none the worse.
            if error.code >= SERVER_ERROR:
                self.error = f"a completion was answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            self.error = f"a completion failed: {error}"
        self.came.set()


def counters(url: str) -> str:
    """Return a digest of what the engine core moves, or nothing where the API does not answer.

    Raises:
        UnhealthyError: nothing listens there.
    """
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=METRICS_SECONDS) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            raise UnhealthyError("nothing listens") from error
        return ""
    moved = [line for line in lines if line.startswith(MOVED_BY_THE_CORE)]
    return hashlib.sha256("\n".join(moved).encode()).hexdigest()


def check(url: str, model: str, patience: float, before: Seen) -> Seen:
    """Return what is seen of an engine that is healthy.

    Args:
        url: of vLLM.
        model: its served name.
        patience: seconds without a completion and without a counter that moves.
        before: what the last check saw.

    Raises:
        UnhealthyError: it is not.
    """
    began, now = time.monotonic(), counters(url)
    base = before.counters or now
    if has_moved(base, now):
        return Seen(now, began)
    if now and not before.hung and began - before.proven < PROVEN_SECONDS:
        return before
    if before.hung:
        patience = min(patience, AFTER_A_HANG_SECONDS)
    completion = Completion(url, model)
    while not completion.came.wait(LOOK_SECONDS):
        now = counters(url)
        if has_moved(base, now):
            return Seen(now, time.monotonic())
        if time.monotonic() - began > patience:
            seconds = time.monotonic() - (before.proven or began)
            raise HungError(f"nothing was completed and nothing moved for {seconds:.0f} s")
        base = base or now
    if completion.error:
        raise UnhealthyError(completion.error)
    return Seen(counters(url), time.monotonic())


def has_moved(before: str, now: str) -> bool:
    """Return whether two looks at the counters show that the engine core did anything."""
    return bool(before and now and before != now)


def remembered(file: Path) -> Seen:
    """Return what the last check since the start saw."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Seen(**json.loads(file.read_text()))
    return Seen()


def main(words: Sequence[str] | None = None) -> int:
    """Check once; exit status 1 and a line where the engine is not healthy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of vLLM")
    parser.add_argument("--model", required=True, help="its served name")
    parser.add_argument("--patience", type=float, required=True, help="seconds")
    parser.add_argument("--state", type=Path, required=True, help="file that a start removes")
    given = parser.parse_args(words)
    seen = before = remembered(given.state)
    try:
        seen = check(given.url, given.model, given.patience, before)
    except UnhealthyError as error:
        print(error)
        status = 1
        if isinstance(error, HungError):
            seen = replace(before, hung=True)
    else:
        status = 0
    given.state.write_text(json.dumps(asdict(seen)))
    return status


if __name__ == "__main__":
    sys.exit(main())
