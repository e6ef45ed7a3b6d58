"""Command line of the lab: ``python -m lab``."""

import argparse
import json
import shutil
import sys
from dataclasses import asdict

from lab import engine, hosts, images
from lab.settings import LABEL, NETWORK, REGISTRY_NAME, STATE
from lab.shell import LabError, remove_container, run, step, succeeds


def up() -> None:
    """Make sure of Engine, network, registry, host bases and the images of the services."""
    engine.ensure()
    with images.lock():
        images.ensure_network()
        images.ensure_all()


def down(everything: bool) -> None:
    """Remove this checkout's hosts.

    Args:
        everything: also remove what checkouts share (registry, images, network) and stop the
            Engine if the lab started it.
    """
    if not engine.answers():
        print("No Docker Engine answers: nothing to remove.")
        return
    for name in hosts.names():
        with step(f"Removing the host {name}"):
            hosts.remove(name)
    if everything:
        remove_shared()
        engine.stop()
        shutil.rmtree(STATE, ignore_errors=True)
        print("What stays: the virtual environment .venv, and packages that apt installed.")


def remove_shared() -> None:
    """Remove registry, images and network, unless another checkout's hosts still use them."""
    if others := run(["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}"]):
        raise LabError(f"Hosts of another checkout still run: {' '.join(others.split())}")
    with step("Removing the lab's registry, images and network"):
        if succeeds(["docker", "container", "inspect", REGISTRY_NAME]):
            remove_container(REGISTRY_NAME)
        if succeeds(["docker", "volume", "inspect", REGISTRY_NAME]):
            run(["docker", "volume", "rm", REGISTRY_NAME])
        if succeeds(["docker", "network", "inspect", NETWORK]):
            run(["docker", "network", "rm", NETWORK])
        # By name and not by id: an image on which others were built goes with the last of them.
        for pattern in ("infbox-lab/*", "127.0.0.1:5077/*/*"):
            listing = ["docker", "images", "--filter", f"reference={pattern}"]
            names = run([*listing, "--format", "{{.Repository}}:{{.Tag}}"]).split()
            if named := [name for name in names if not name.endswith(":<none>")]:
                run(["docker", "rmi", *named])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make all that hosts need; quick when nothing changed")
    create = commands.add_parser("create", help="create a host and print it as JSON")
    create.add_argument("name")
    create.add_argument("--base", default="debian13", help="debian13 or debian13-docker")
    create.add_argument("--mount", action="append", default=[], metavar="SOURCE:TARGET[:ro]")
    remove = commands.add_parser("remove", help="remove a host and all it held")
    remove.add_argument("name")
    commands.add_parser("list", help="list the hosts of this checkout")
    stop = commands.add_parser("down", help="remove the hosts of this checkout")
    stop.add_argument("--all", action="store_true", help="also registry, images and Engine")
    return top


def main() -> int:
    """Run one command; errors are one message on standard error and exit status 1."""
    arguments = parser().parse_args()
    try:
        match arguments.command:
            case "up":
                up()
            case "create":
                host = hosts.create(arguments.name, arguments.base, arguments.mount)
                print(json.dumps(asdict(host)))
            case "remove":
                hosts.remove(arguments.name)
            case "list":
                print("\n".join(hosts.names()))
            case "down":
                down(arguments.all)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
