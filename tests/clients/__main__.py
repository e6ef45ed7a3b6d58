"""Runs clients through the edge of a host: ``python -m tests.clients [NAME …] [--server URL …]``.

Without a server it deploys the demo's host, model and workspace as a lab host, and removes it.
Agents whose own prompts do not fit that model's window ask another one, with random weights.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.__main__ import PRESET
from demo.scene import SHOP
from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play
from lab.settings import STATE
from tests.clients.configured import Server
from tests.clients.libraries import CHECKS, LIBRARIES, Seen, run_library

HOST = "clients"
WORKSPACE = "shop"
SMALL = {"infbox_preset": "demo", "infbox_more_presets": {"demo": PRESET}}
# What the demo's model has beside a pack, in tokens: agents that need more are asked of the other.
SMALL_WINDOW = 5_000
WIDE: dict[str, Any] = {
    "infbox_preset": "wide",
    "infbox_more_presets": {
        "wide": {
            "like": "cpu",
            "description": "Random weights, with a window for the prompts of agents",
            "model": {"source": "random"},
            "engine": {"max_model_len": 32768, "start_period": 1200},
            # As small as the workspace: its pack is not to take the window.
            "workspace_budget": 1000,
        }
    },
    # Random words have no end.
    "vllm_extra_args": ["--override-generation-config", '{"max_new_tokens": 48}'],
}
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LIBRARIES))
    parser.add_argument("--server", help="a server that runs already, such as https://gpu1")
    parser.add_argument("--ca", type=Path, help="file with the certificate that it is signed by")
    parser.add_argument("--key-file", type=Path, help="file with an API key of it")
    parser.add_argument("--workspace", default=WORKSPACE, help="that is asked about")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(LIBRARIES))
    if unknown:
        parser.error(f"there is no client {unknown[0]}: give one of {', '.join(LIBRARIES)}")
    if given.server and not (given.ca and given.key_file):
        parser.error("--server needs --ca and --key-file")
    return given


@contextlib.contextmanager
def server_of(given: argparse.Namespace, model: Mapping[str, Any]) -> Iterator[Server]:
    """Give the server that was named, or a lab host made for this run with a model."""
    if given.server:
        yield Server(given.server, given.ca, given.key_file, given.workspace)
        return
    copy_tree(SHOP, WORKSPACE)
    with hosts.fresh(HOST, "debian13", [f"{STATE / 'workspaces'}:{WORKSPACES}"]) as host:
        variables = {
            "infbox_workspaces": [{"name": WORKSPACE, "path": f"{WORKSPACES}/{WORKSPACE}"}],
            **model,
        }
        console.print(f"site.yml on a lab host; its log is {STATE / 'logs' / f'{HOST}-site.log'}")
        play(["site.yml", "-i", inventory(host, variables)], f"{HOST}-site")
        point = endpoint(host)
        Client(point, WORKSPACE).wait_until_warm()
        with tempfile.TemporaryDirectory() as place:
            key = Path(place) / "key"
            key.touch(0o600)
            key.write_text(point.key)
            yield Server(point.url, point.authority, key, WORKSPACE)


def groups(given: argparse.Namespace) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """Give the models that are deployed in turn, and the clients that ask each."""
    names = given.names or list(LIBRARIES)
    wide = [] if given.server else [n for n in names if LIBRARIES[n].needs > SMALL_WINDOW]
    small = [name for name in names if name not in wide]
    for model, some in ((SMALL, small), (WIDE, wide)):
        if some:
            yield model, some


def run_all(names: Sequence[str], server: Server) -> dict[str, list[Seen]]:
    """Run clients one after the other, and tell of each as it ends."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as home:
            found[name] = run_library(name, server, Path(home))
        took = sum(each.seconds for each in found[name])
        console.print(f"{name} ({took:.0f} s)")
        for each in found[name]:
            console.print(f"  {each.check}: {each.outcome}: {each.said}", markup=False)
    return found


def table_of(found: Mapping[str, Sequence[Seen]]) -> Table:
    """Return what passed, a row for each client."""
    table = Table("client", *CHECKS)
    for name, seen in found.items():
        by_check = {each.check: each.outcome for each in seen}
        table.add_row(name, *(by_check[check] for check in CHECKS))
    return table


def main() -> int:
    """Run what is asked for; 1 if a client failed."""
    given = parsed()
    found: dict[str, list[Seen]] = {}
    for model, names in groups(given):
        with server_of(given, model) as server:
            found |= run_all(names, server)
    console.print(table_of(found))
    console.print(
        "form: the request was accepted; the rest cannot be seen. none: it has no such call."
    )
    return int(any(each.outcome == "failed" for seen in found.values() for each in seen))


if __name__ == "__main__":
    sys.exit(main())
