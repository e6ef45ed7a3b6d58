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


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"image_reference": image_reference}
