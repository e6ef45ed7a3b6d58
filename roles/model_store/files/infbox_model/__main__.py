"""The command line."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from infbox_model import store
from infbox_model.files import File, ModelError
from infbox_model.progress import follow


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="infbox_model", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    hub = commands.add_parser("hub", help="download a model")
    hub.add_argument("--endpoint", required=True)
    hub.add_argument("--ignore", action="append", default=[], metavar="PATTERN")
    hub.add_argument("--workers", type=int, default=8, help="files at once")
    hub.add_argument("--tries", type=int, default=12, help="in a row without a byte")
    hub.add_argument("--first-wait", type=float, default=1, help="seconds before the second try")
    hub.add_argument("--again", action="store_true", help="repair a model that is there")
    copied = commands.add_parser("adopt", help="verify a model that was copied beside its place")
    carried = commands.add_parser("image", help="copy a model that this image carries")
    carried.add_argument("--source", type=Path, required=True, help="its folder in the image")
    made = commands.add_parser("random", help="make a small model with random weights")
    made.add_argument("--seed", type=int, default=0)
    for known in (hub, copied, carried):
        known.add_argument("--repository", required=True)
        known.add_argument("--revision", required=True)
    for one in (hub, copied, carried, made):
        one.add_argument("--place", type=Path, required=True, help="where the model will be")

    verify = commands.add_parser("verify", help="read all models and compare them")
    listed = commands.add_parser("list", help="say what is there, as JSON")
    prune = commands.add_parser("prune", help="remove what nothing uses; says it as JSON")
    prune.add_argument("--keep", action="append", default=[], metavar="NAME")
    prune.add_argument("--pretend", action="store_true")
    for several in (verify, listed, prune):
        several.add_argument("--store", type=Path, required=True, help="folder of all models")
    for looking in (listed, prune):
        looking.add_argument("--named-in", action="append", default=[], metavar="PATTERN")

    followed = commands.add_parser("follow", help="say how far a container is, as JSON")
    followed.add_argument("--container", required=True)
    followed.add_argument("--progress", type=Path, required=True)
    followed.add_argument("--seconds", type=float, default=10)
    return top


def put(arguments: argparse.Namespace) -> None:
    """Put the model that the command line names to its place.

    Raises:
        ModelError: it cannot be.
    """
    place: Path = arguments.place
    said = {"source": arguments.command}
    if arguments.command == "random":
        said["seed"] = arguments.seed
        store.put(place, store.beside(place, "part"), said, lambda part: random(arguments, part))
        return
    if arguments.command == "image":
        said |= {"repository": arguments.repository, "revision": arguments.revision}
        store.put(place, store.beside(place, "part"), said, lambda part: carried(arguments, part))
        return
    said = {"source": "hub", "repository": arguments.repository, "revision": arguments.revision}
    progress = store.beside(place, "progress.json")
    if arguments.command == "hub":
        store.put(
            place,
            store.beside(place, "download"),
            said,
            lambda part: hub(arguments, part, progress),
            again=arguments.again,
        )
    else:
        store.put(
            place,
            store.beside(place, "upload"),
            {**said, "source": "copy"},
            lambda part: store.adopt(part, arguments.repository, arguments.revision, progress),
        )


def hub(arguments: argparse.Namespace, staging: Path, progress: Path) -> list[File]:
    """Download a model."""
    from infbox_model.hub import Download, Source

    source = Source(
        endpoint=arguments.endpoint.rstrip("/"),
        repository=arguments.repository,
        revision=arguments.revision,
        ignore=tuple(arguments.ignore),
        workers=arguments.workers,
        tries=arguments.tries,
        first_wait=arguments.first_wait,
    )
    return Download(source, staging, progress).run()


def carried(arguments: argparse.Namespace, staging: Path) -> list[File]:
    """Copy a model that the image carries, from the beginning."""
    from infbox_model.image_model import copy_from_image

    shutil.rmtree(staging)
    staging.mkdir()
    return copy_from_image(arguments.source, staging)


def random(arguments: argparse.Namespace, staging: Path) -> list[File]:
    """Make a model with random weights, from the beginning."""
    from infbox_model.random_model import make_random

    shutil.rmtree(staging)
    staging.mkdir()
    return make_random(arguments.seed, staging)


def run(arguments: argparse.Namespace) -> int:
    """Run the command that the command line names, and return its exit status."""
    match arguments.command:
        case "verify":
            damaged = store.verify(arguments.store, arguments.store / ".verify.progress.json")
            print("\n".join(damaged))
            return 1 if damaged else 0
        case "list":
            print(json.dumps(store.catalogue(arguments.store, arguments.named_in)))
        case "prune":
            going = store.prune(
                arguments.store, arguments.keep, arguments.named_in, pretend=arguments.pretend
            )
            print(json.dumps(going))
        case "follow":
            how_far = follow(arguments.container, arguments.progress, arguments.seconds)
            print(json.dumps(how_far))
        case _:
            put(arguments)
    return 0


def main() -> int:
    """Run; an error is one message on standard error and exit status 1."""
    try:
        return run(parser().parse_args())
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
