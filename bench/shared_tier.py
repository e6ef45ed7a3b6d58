"""Measure the clients by which LMCache could ask a Valkey: `python -m bench.shared_tier`.

Each writes, looks up and reads pieces of several sizes in the engine's image, in turn, so that what
else the machine does befalls all alike; then Valkey is frozen, and restarted. Those of LMCache that
need a package which the image lacks are left out; `--image` takes one that has it. TLS where a
client can.
"""

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = "infbox-bench-valkey"
PLAIN, TLS = 18446, 18447
MIB = 1 << 20
SHAPES = ((1, 64), (8, 24), (64, 4))  # MiB of a piece, pieces
ROUNDS = 3
PATIENCE = 15.0
CONTROL = "/run/control"


class Piece:
    """What LMCache gives its adapters.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.byte_array = memoryview(bytearray(os.urandom(MIB) * (size // MIB)))

    def get_size(self) -> int:
        """Return the bytes."""
        return len(self.byte_array)


def resp() -> Any:
    """Return LMCache's client in C++."""
    from lmcache.v1.distributed.l2_adapters.resp_l2_adapter import (  # noqa: PLC0415
        RESPL2AdapterConfig,
        _create_resp_l2_adapter,
    )

    return _create_resp_l2_adapter(RESPL2AdapterConfig("127.0.0.1", PLAIN))


def glide() -> Any:
    """Return LMCache's client by the package valkey-glide-sync, as patient as ours."""
    from lmcache.v1.distributed.l2_adapters.valkey_l2_adapter import (  # noqa: PLC0415
        ValkeyL2Adapter,
        ValkeyL2AdapterConfig,
    )

    return ValkeyL2Adapter(ValkeyL2AdapterConfig([("127.0.0.1", PLAIN)], request_timeout=1.0))


def ours() -> Any:
    """Return infbox's client, by TLS."""
    from infbox_cake.valkey import ValkeyClient  # noqa: PLC0415
    from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import (  # noqa: PLC0415
        NativeConnectorL2Adapter,
    )

    certificate, key = "/tls/group.crt", "/tls/group.key"
    client = ValkeyClient(host="127.0.0.1", port=TLS, certificate=certificate, key=key)
    while not client.is_there:
        time.sleep(0.05)
    return NativeConnectorL2Adapter(client)


def wait(ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer, or patience ends."""
    ends = time.monotonic() + PATIENCE
    while (answer := ask()) is None and time.monotonic() < ends:
        time.sleep(0.0005)
    return answer


def keys(count: int, name: str) -> list[Any]:
    """Return keys of pieces."""
    from lmcache.v1.distributed.api import ObjectKey  # noqa: PLC0415

    return [ObjectKey(f"{name}{index}".encode(), "/model", 0) for index in range(count)]


def store(adapter: Any, names: list[Any], pieces: list[Piece]) -> float:
    """Return how many seconds writing takes."""
    began = time.monotonic()
    adapter.submit_store_task(names, pieces)
    wait(lambda: adapter.pop_completed_store_tasks() or None)
    return time.monotonic() - began


def look(adapter: Any, names: list[Any]) -> tuple[float, int | None]:
    """Return how many seconds looking up takes, and how many are there; None without an answer."""
    began = time.monotonic()
    task = adapter.submit_lookup_and_lock_task(names, {})
    found = wait(lambda: adapter.query_lookup_and_lock_result(task))
    return time.monotonic() - began, None if found is None else found.popcount()


def load(adapter: Any, names: list[Any], pieces: list[Piece]) -> tuple[float, int | None]:
    """Return how many seconds reading takes, and how many were read."""
    began = time.monotonic()
    task = adapter.submit_load_task(names, pieces)
    read = wait(lambda: adapter.query_load_result(task))
    return time.monotonic() - began, None if read is None else read.popcount()


def inside() -> None:
    """Measure, in a container that has LMCache; prints JSON lines."""
    makers = {"resp": resp, "valkey": glide, "infbox": ours}
    if importlib.util.find_spec("glide_sync") is None:
        del makers["valkey"]
    adapters = {name: make() for name, make in makers.items()}
    for mib, count in SHAPES:
        pieces = [Piece(mib * MIB) for _ in range(count)]
        best: dict[str, list[float]] = {name: [1e9] * 3 for name in adapters}
        for _ in range(ROUNDS):
            for name, adapter in adapters.items():
                names = keys(count, f"{name}{mib}-")
                took = [store(adapter, names, pieces), look(adapter, names)[0]]
                took.append(load(adapter, names, pieces)[0])
                best[name] = [min(pair) for pair in zip(best[name], took, strict=True)]
        for name, (stored, looked, loaded) in best.items():
            rates = {"store": mib * count / stored, "load": mib * count / loaded}
            print(
                json.dumps({"client": name, "mib": mib, "look_ms": looked * 1e3, **rates}),
                flush=True,
            )
    names, pieces = keys(32, "away"), [Piece(MIB) for _ in range(32)]
    for state in ("there", "pause", "unpause", "restart", "written again"):
        if state not in ("there", "written again"):
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(CONTROL)
                control.sendall(state.encode())
                control.recv(1)
        for name, adapter in adapters.items():
            if state in ("there", "written again"):
                store(adapter, names, pieces)
            asked = {"look": look(adapter, names), "again": look(adapter, names)}
            asked["load"] = load(adapter, names, pieces)
            print(json.dumps({"client": name, "valkey": state, **asked}), flush=True)
    os._exit(0)  # threads of a client may wait for ever


def serve(control: socket.socket) -> None:
    """Do to Valkey what is asked for from inside."""
    while True:
        asked, _ = control.accept()
        command = asked.recv(100).decode()
        subprocess.run(["docker", command, "--time=1", NAME] if command == "restart"
                       else ["docker", command, NAME], check=True, capture_output=True)  # fmt: skip
        time.sleep(4)
        asked.sendall(b".")
        asked.close()


def main() -> None:
    """Start Valkey, measure, and remove it."""
    sys.path.insert(0, str(ROOT))
    from lab.images import build, debian, engine_image  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m bench.shared_tier", description=__doc__)
    parser.add_argument("--image", default="", help="the engine's; the lab's unless given")
    image = parser.parse_args().image or engine_image()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=bench", "-keyout", path / "group.key",
             "-out", path / "group.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
        (path / "group.key").chmod(0o644)
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(path / "control"))
        (path / "control").chmod(0o777)
        control.listen()
        threading.Thread(target=serve, args=(control,), daemon=True).start()
        try:
            subprocess.run(
                ["docker", "run", "--detach", "--name", NAME, "--network", "host",
                 "--volume", f"{path}:/tls:ro", build("valkey", debian("trixie")), "valkey-server",
                 "--bind", "127.0.0.1", "--port", str(PLAIN), "--tls-port", str(TLS),
                 "--tls-cert-file", "/tls/group.crt", "--tls-key-file", "/tls/group.key",
                 "--tls-ca-cert-file", "/tls/group.crt", "--save", "", "--maxmemory", "2gb",
                 "--maxmemory-policy", "allkeys-lru"],
                check=True, capture_output=True,
            )  # fmt: skip
            time.sleep(1)
            # LMCache says a lot on standard error, which counts only where it ends.
            with (path / "log").open("w+") as log:
                done = subprocess.run(
                    ["docker", "run", "--rm", "--network", "host", "--user", "0:0",
                     "--volume", f"{ROOT}/cake/src:/cake:ro", "--env", "PYTHONPATH=/cake",
                     "--volume", f"{path}:/tls:ro", "--volume", f"{path}/control:{CONTROL}",
                     "--volume", f"{Path(__file__).parent}:/bench:ro",
                     "--entrypoint", "python3", image, "/bench/shared_tier.py", "inside"],
                    check=False, stderr=log,
                )  # fmt: skip
                if done.returncode:
                    log.seek(0)
                    sys.exit("".join(log.readlines()[-20:]))
        finally:
            subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["inside"] else main()
