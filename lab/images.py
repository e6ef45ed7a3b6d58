"""Images of the lab: built once, kept under the hash of what they were made of."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.settings import (
    IMAGES_FILE,
    NETWORK,
    REGISTRY_ADDRESS,
    REGISTRY_NAME,
    REGISTRY_PORT,
    REGISTRY_PULL,
    REGISTRY_PUSH,
    ROOT,
    STATE,
    SUBNET,
)
from lab.shell import LabError, remove_container, run, run_logged, step, succeeds

RECIPES = Path(__file__).parent / "images"
LOCK_FILE = Path(tempfile.gettempdir()) / "infbox-lab.lock"
EXTRA_AUTHORITIES = Path("/usr/local/share/ca-certificates")
# Where the lab's registry has the images of the services.
REPOSITORIES = {
    "caddy": "library/caddy",
    "engine": "infbox/engine",
    "monitoring": "infbox/monitoring",
    "valkey": "valkey/valkey",
}
PULL_TIMEOUT = "20"  # seconds, after which a registry counts as out of reach


@dataclass(frozen=True)
class Published:
    """An image in the lab's registry.

    Attributes:
        repository: its name below the registry prefix.
        tag: its tag there.
        digest: its manifest's digest, ``sha256:…``.
        reference: what a lab host pulls, digest included.
    """

    repository: str
    tag: str
    digest: str
    reference: str


@contextmanager
def lock() -> Iterator[None]:
    """Let one process at a time build, since scenarios run side by side."""
    with LOCK_FILE.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def exists(image: str) -> bool:
    """Return whether the Engine has `image`."""
    return succeeds(["docker", "image", "inspect", image])


def content_hash(directory: Path, *more: str) -> str:
    """Return a short hash over the files below `directory` and the strings in `more`."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            digest.update(
                f"{path.relative_to(directory)}\0{path.stat().st_mode & 0o111}\0".encode()
            )
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for text in more:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:12]


def debian(suite: str) -> str:
    """Return an image of a Debian suite: from a registry in reach, else made by debootstrap.

    Args:
        suite: code name, such as ``trixie``.

    Raises:
        LabError: neither way worked.
    """
    made = f"infbox-lab/debian:{suite}"
    if exists(made):
        return made
    with step(f"Getting Debian {suite}"):
        if succeeds(["timeout", PULL_TIMEOUT, "docker", "pull", "--quiet", f"debian:{suite}"]):
            print(f"  (Debian {suite} comes from the registry)")
            run(["docker", "tag", f"debian:{suite}", made])
        else:
            print(f"  (no registry in reach: Debian {suite} is made by debootstrap)")
            debootstrap(suite, made)
    return made


def debootstrap(suite: str, image: str) -> None:
    """Make `image` from the packages of the mirror that this machine uses itself."""
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE) as directory:
        # A directory of its own below, since debootstrap sets the modes of the root it fills.
        root = Path(directory, "root")
        run_logged(
            ["debootstrap", "--variant=minbase", suite, root, *own_mirror()], f"debootstrap-{suite}"
        )
        archive = Path(directory, "root.tar")
        run(["tar", "-C", root, "-cf", archive, "."])
        run(["docker", "import", archive, image])


def own_mirror() -> list[str]:
    """Return the Debian mirror in this machine's apt configuration, or nothing."""
    listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    return [uri for uri in listing.splitlines() if uri.rstrip("/").endswith("/debian")][:1]


def build(name: str, base: str) -> str:
    """Build `images/NAME` on `base` unless that very content was built before.

    Returns:
        The image's name, with its content hash as the tag.
    """
    recipe = RECIPES / name
    base_id = run(["docker", "image", "inspect", "--format", "{{.Id}}", base])
    image = f"infbox-lab/{name}:{content_hash(recipe, base_id)}"
    if not exists(image):
        with step(f"Building the image {name}"):
            run_logged(
                ["docker", "build", "--network", "host", "--build-arg", f"BASE={base}",
                 "--tag", image, recipe],
                f"build-{name}",
            )  # fmt: skip
    return image


def host_image(base: str) -> str:
    """Return the image of a lab host.

    Args:
        base: ``debian13``, a bare server, or ``debian13-docker``, with a Docker Engine.

    Raises:
        LabError: there is no such base.
    """
    if base == "debian13":
        return build("host", debian("trixie"))
    if base == "debian13-docker":
        return build("host-docker", host_image("debian13"))
    raise LabError(f"There is no host base {base!r}. Use debian13 or debian13-docker.")


def engine_image() -> str:
    """Return the CPU engine image, built from `files/engine` as a user would build it."""
    return engine("cpu", "about 2 minutes")


def cuda_engine_image() -> str:
    """Return the CUDA engine image, built from `files/engine` as a user would build it."""
    return engine("cuda", "4 GB to download")


def engine(target: str, effort: str) -> str:
    """Return an engine image, built unless that very content was built before.

    Args:
        target: of the Dockerfile.
        effort: what it takes, for whoever waits.
    """
    base = debian("bookworm")
    source = ROOT / "files" / "engine"
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory, "engine")
        shutil.copytree(source, context, ignore=shutil.ignore_patterns("__pycache__"))
        for authority in EXTRA_AUTHORITIES.glob("*.crt"):
            shutil.copy(authority, context / "ca")
        tag = content_hash(context, base)
        image = engine_name(target, tag)
        if exists(image):
            return image
        copy_wheels(context)
        with step(f"Building the engine image {target}, vLLM and LMCache ({effort})"):
            build_engine(context, base, target, image)
    return image


def engine_name(target: str, tag: str) -> str:
    """Return the name of an engine image."""
    return f"infbox-lab/{'engine' if target == 'cpu' else f'engine-{target}'}:{tag}"


def build_engine(context: Path, base: str, target: str, image: str) -> None:
    """Build one stage of the engine's Dockerfile."""
    run_logged(
        ["docker", "build", "--network", "host", "--target", target,
         "--build-arg", f"BASE={base}", "--tag", image, context],
        f"build-engine-{target}",
    )  # fmt: skip


def copy_wheels(context: Path) -> None:
    """Put the locked wheels that this machine's pip would find locally into the context.

    The CPU build of torch is not among PyPI's files; pip finds it through ``find-links``.
    """
    locked = {
        line.split()[0].replace("==", "-")
        for line in (context / "requirements-cpu.txt").read_text().splitlines()
        if "==" in line
    }
    for place in os.environ.get("PIP_FIND_LINKS", "").split():
        for wheel in Path(place).glob("*.whl"):
            if "-".join(wheel.name.split("-")[:2]) in locked:
                shutil.copy(wheel, context / "wheels")


def ensure_network() -> None:
    """Make sure that the lab's network exists."""
    if not succeeds(["docker", "network", "inspect", NETWORK]):
        run(["docker", "network", "create", "--subnet", SUBNET, NETWORK])


def ensure_registry() -> None:
    """Make sure that the lab's registry runs, with the images it had before."""
    state = "{{.State.Running}}"
    if succeeds(["docker", "container", "inspect", REGISTRY_NAME]):
        if run(["docker", "container", "inspect", "--format", state, REGISTRY_NAME]) == "true":
            return
        remove_container(REGISTRY_NAME)
    run(
        ["docker", "run", "--detach", "--name", REGISTRY_NAME, "--restart", "unless-stopped",
         "--network", NETWORK, "--ip", REGISTRY_ADDRESS,
         "--publish", f"{REGISTRY_PUSH}:{REGISTRY_PORT}",
         "--volume", f"{REGISTRY_NAME}:/var/lib/registry",
         build("registry", debian("bookworm"))]
    )  # fmt: skip


def publish(image: str, repository: str) -> Published:
    """Copy `image` to the lab's registry, under its content hash, unless it is there.

    By skopeo, since the Engine compresses by gzip on one core: of the engine image's 3 GB that
    takes two minutes, and zstd on all of them half of one.

    Args:
        image: a local image, ``NAME:HASH``.
        repository: its name in the registry.
    """
    tag = image.rpartition(":")[2]
    pushed = f"docker://{REGISTRY_PUSH}/{repository}:{tag}"
    inspect = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", pushed]
    if not succeeds(inspect):
        with step(f"Pushing {repository} to the lab's registry"):
            run_logged(
                ["skopeo", "copy", "--dest-tls-verify=false", "--format", "oci",
                 "--dest-compress-format", "zstd", "--dest-compress-level", "1",
                 f"docker-daemon:{image}", pushed],
                f"push-{repository.replace('/', '-')}",
            )  # fmt: skip
    digest = run(inspect)
    return Published(repository, tag, digest, f"{REGISTRY_PULL}/{repository}:{tag}@{digest}")


def ensure_all() -> None:
    """Build and publish all images, and write those of the services to `.lab/images.json`.

    What stands on Debian 12 (the registry, the engine) and on Debian 13 (all else) is built side by
    side: while one downloads or writes, the other computes.
    """
    with ThreadPoolExecutor(2) as pool:
        registry = pool.submit(ensure_registry)
        services = pool.submit(publish_services, registry)
        engine = pool.submit(publish_engine, registry)
        published = {**services.result(), "engine": engine.result()}
    IMAGES_FILE.parent.mkdir(parents=True, exist_ok=True)
    content = {name: asdict(image) for name, image in sorted(published.items())}
    IMAGES_FILE.write_text(json.dumps(content, indent=2) + "\n")


def publish_engine(registry: Future[None]) -> Published:
    """Build the engine image once the registry runs, and copy it there.

    Args:
        registry: what says when the registry runs.
    """
    registry.result()
    return publish(engine_image(), REPOSITORIES["engine"])


def publish_services(registry: Future[None]) -> dict[str, Published]:
    """Build the images of hosts and of the services, and copy the latter to the registry.

    Args:
        registry: what says when the registry runs.

    Returns:
        the images of the services, by name.
    """
    host_image("debian13-docker")
    built = {name: build(name, debian("trixie")) for name in ("caddy", "monitoring", "valkey")}
    registry.result()
    return {name: publish(image, REPOSITORIES[name]) for name, image in built.items()}
