"""The name by which Docker pulls a pinned image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def image_reference(image: Mapping[str, str], prefix: str = "") -> str:
    """Return the reference of an image.

    Args:
        image: `repository`, `tag`, `digest` (may be empty) and, where it is not Docker Hub's,
            `registry`.
        prefix: registry and path in place of the image's own, ending in a slash; empty for its own.
    """
    registry = f"{image['registry']}/" if image.get("registry") else ""
    digest = f"@{image['digest']}" if image["digest"] else ""
    return f"{prefix or registry}{image['repository']}:{image['tag']}{digest}"


def image_sources(
    images: Mapping[str, Mapping[str, str]],
    prefix: str,
    bundle: Mapping[str, Any],
    archives: str,
    build_context: str,
) -> dict[str, dict[str, str]]:
    """Return how each image comes to a host, as entries of the images role's list.

    Args:
        images: by name, as for `image_reference`; one with a `build_target` can be built.
        prefix: as there. With one all are pulled.
        bundle: what `bundle.json` says; empty without a bundle. With one all of its are loaded.
        archives: directory on the host with the bundle's images.
        build_context: directory on the controller of those that are built.
    """
    if bundle:
        return {
            name: {"name": name, "source": "load", "archive": f"{archives}/{name}.tar", **there}
            for name, there in bundle["images"].items()
        }
    return {
        name: {
            "name": name,
            "reference": image_reference(image, prefix),
            **(
                {
                    "source": "build",
                    "build_context": build_context,
                    "build_target": image["build_target"],
                }
                if "build_target" in image and not prefix
                else {"source": "pull"}
            ),
        }
        for name, image in images.items()
    }


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"image_reference": image_reference, "image_sources": image_sources}
