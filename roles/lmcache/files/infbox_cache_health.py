"""Say whether LMCache answers: the health check of its container.

Its own `/healthcheck` says that its HTTP interface lives, which has a thread of its own. The engine
speaks to another one, which hands what takes long to further threads. So this pings as the engine
does, through all of them, and asks `/healthcheck` besides. Either may be busy for as long as one
step takes: the KV of a GPU being opened, or an operation that the engine waits for.

The words of the ping are LMCache 0.5.6's. Docker runs this within the container, as text.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence

import zmq

# A request is its number, the operation and that operation's arguments, each as msgpack: 1, ping,
# and nobody whose registration is to be kept. It is answered by the first two and True.
PING = [b"\x01", b"\x16", b"\xc0"]
PONG = [b"\x01", b"\x16", b"\xc3"]
MILLISECONDS = 1000


def ping(address: str, patience: float) -> None:
    """Ping as the engine does.

    Args:
        address: HOST:PORT.
        patience: seconds that it may take.

    Raises:
        OSError: it was not answered, or otherwise.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as channel:
        channel.linger = 0
        channel.connect(f"tcp://{address}")
        channel.send_multipart(PING)
        if not channel.poll(patience * MILLISECONDS):
            raise OSError("nothing came")
        if (answer := channel.recv_multipart()) != PONG:
            raise OSError(f"it was answered {answer!r:.100}")


def ask(url: str, patience: float) -> None:
    """Ask whether the HTTP interface lives.

    Args:
        url: of its health check.
        patience: seconds that it may take.

    Raises:
        OSError: it does not say so.
    """
    try:
        with urllib.request.urlopen(url, timeout=patience) as answer:  # noqa: S310
            answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no answer: {error!r:.100}") from error


def failures(checks: dict[str, Callable[[], None]]) -> list[str]:
    """Run checks beside each other, and return what failed."""
    failed: list[str] = []

    def run(name: str, check: Callable[[], None]) -> None:
        try:
            check()
        except OSError as error:
            failed.append(f"{name}: {error}")

    threads = [threading.Thread(target=run, args=item) for item in checks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def main(words: Sequence[str] | None = None) -> int:
    """Check once; exit status 1 and a line where LMCache is not healthy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="for the engine, HOST:PORT")
    parser.add_argument("--url", required=True, help="of /healthcheck")
    parser.add_argument("--patience", type=float, required=True, help="seconds")
    given = parser.parse_args(words)
    failed = failures(
        {
            "ping": lambda: ping(given.address, given.patience),
            "/healthcheck": lambda: ask(given.url, given.patience),
        }
    )
    print("; ".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
