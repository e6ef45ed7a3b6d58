"""A real Valkey in a container, with the users that the role gives it."""

import subprocess
from pathlib import Path

from infbox_cake.valkey import ValkeyClient

from lab import engine
from lab.images import build, debian, lock
from lab.shell import run

NAME, PORT = "infbox-test-valkey", 18445

ROOT = Path(__file__).parents[2]
USERS = [
    line
    for line in (ROOT / "roles/valkey/templates/valkey.conf.j2").read_text().splitlines()
    if line.startswith("user ")
]


class Valkey:
    """A real Valkey in a container.

    Args:
        folder: where its certificate is put.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        engine.ensure()
        with lock():
            self.image = build("valkey", debian("trixie"))
        for name in ("group", "other"):
            run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                 "-nodes", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key",
                 "-out", folder / f"{name}.crt"]
            )  # fmt: skip
            (folder / f"{name}.key").chmod(0o644)
        folder.chmod(0o755)

    def start(self) -> None:
        """Start it, empty."""
        self.remove()
        run(
            ["docker", "run", "--detach", "--name", NAME, "--network", "host", "--user", "64434",
             "--volume", f"{self.folder}:/tls:ro", self.image, "valkey-server",
             "--bind", "127.0.0.1", "--port", "0", "--tls-port", str(PORT),
             "--tls-cert-file", "/tls/group.crt", "--tls-key-file", "/tls/group.key",
             "--tls-ca-cert-file", "/tls/group.crt", "--save", "", "--appendonly", "no",
             *(word for user in USERS for word in ("--user", *user.split()[1:]))]
        )  # fmt: skip

    def remove(self) -> None:
        """Remove it."""
        subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)

    def client(self, shows: str = "group", kind: type[ValkeyClient] = ValkeyClient) -> ValkeyClient:
        """Return a client that shows a certificate."""
        return kind(
            host="127.0.0.1", port=PORT, namespace="test:",
            certificate=str(self.folder / f"{shows}.crt"), key=str(self.folder / f"{shows}.key"),
        )  # fmt: skip
