"""The name by which a pinned image is pulled."""

import pytest

from tests.plugins.plugin_files import load

image_reference = load("filter", "image_reference").image_reference

HUB = {"repository": "prom/prometheus", "tag": "v3", "digest": "sha256:1"}
OTHER = {**HUB, "registry": "nvcr.io"}


@pytest.mark.parametrize(
    ("image", "prefix", "reference"),
    [
        (HUB, "", "prom/prometheus:v3@sha256:1"),
        (OTHER, "", "nvcr.io/prom/prometheus:v3@sha256:1"),
        (OTHER, "mirror:5000/all/", "mirror:5000/all/prom/prometheus:v3@sha256:1"),
        ({**HUB, "digest": ""}, "", "prom/prometheus:v3"),
    ],
)
def test_a_mirror_stands_for_every_registry(
    image: dict[str, str], prefix: str, reference: str
) -> None:
    assert image_reference(image, prefix) == reference
