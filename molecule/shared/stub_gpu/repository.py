"""Make a signed apt repository of stub packages, on the host that will install from it.

    python3 repository.py FOLDER PACKAGES.json [SUITE/COMPONENT]

The packages are a list of name and version, with files (path to text) and what else a package may
have: depends, conflicts, postinst. What a text holds as @VERSION@ is the version without its
Debian part. The key that signs lies in FOLDER/key.asc; the repository can be reached by the folders
too that NVIDIA has for systems and architectures. They stand for what needs an NVIDIA GPU. With a
suite and a component it can be reached below FOLDER/debian as well, as Docker's own is.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEY = "stub@example.org"
# What NVIDIA's repository of drivers calls itself.
LABEL = "NVIDIA CUDA"
GPG = ("gpg", "--batch", "--yes", "--quiet")


def build(package: dict[str, Any], folder: Path) -> None:
    """Build one package into a folder."""
    name, version = package["name"], package["version"]
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for path, text in package.get("files", {}).items():
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.replace("@VERSION@", version.split("-")[0]))
        place.chmod(0o755 if text.startswith("#!") else 0o644)
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": KEY,
        "Depends": package.get("depends", ""),
        "Provides": package.get("provides", ""),
        "Conflicts": package.get("conflicts", ""),
        "Replaces": package.get("conflicts", ""),
        "Description": "stub",
    }
    (tree / "DEBIAN").mkdir(parents=True)
    lines = [f"{key}: {value}\n" for key, value in control.items() if value]
    (tree / "DEBIAN/control").write_text("".join(lines))
    if script := package.get("postinst"):
        (tree / "DEBIAN/postinst").write_text(script.replace("@VERSION@", version.split("-")[0]))
        (tree / "DEBIAN/postinst").chmod(0o755)
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(folder))
    shutil.rmtree(tree)


def run(*command: str, folder: Path | None = None) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    return done.stdout


def describe(folder: Path, packages: Path, options: Sequence[str]) -> None:
    """Write what apt reads of a repository, and sign it.

    Args:
        folder: where the packages are.
        packages: folder of their description, the repository's or one of its component.
        options: of apt-ftparchive, for the description of the release.
    """
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "Packages").write_text(run("apt-ftparchive", "packages", ".", folder=folder))
    release = folder if packages == folder else packages.parents[1]
    (release / "Release").write_text(
        run("apt-ftparchive", *options, "release", ".", folder=release)
    )
    signed = ["--output", str(release / "InRelease"), "--clearsign", str(release / "Release")]
    run(*GPG, "--local-user", KEY, *signed)


def main() -> None:
    """Make the repository."""
    folder = Path(sys.argv[1])
    packages = json.loads(Path(sys.argv[2]).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        build(package, folder)
    if not (folder / "key.asc").exists():
        run(*GPG, "--passphrase", "", "--quick-generate-key", KEY, "ed25519", "sign", "never")
        (folder / "key.asc").write_text(run(*GPG, "--armor", "--export", KEY))
    describe(folder, folder, ["-o", f"APT::FTPArchive::Release::Label={LABEL}"])
    if len(sys.argv) > 3:  # noqa: PLR2004
        suite, component = sys.argv[3].split("/")
        named = {"Suite": suite, "Components": component, "Architectures": "amd64"}
        options = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in named.items()]
        describe(folder, folder / "dists" / suite / component / "binary-amd64", options)
    for name in ("amd64", "debian13/x86_64", "debian"):
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(folder, target_is_directory=True)


if __name__ == "__main__":
    main()
