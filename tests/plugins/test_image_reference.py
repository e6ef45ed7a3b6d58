"""The name by which a pinned image is pulled, and the way on which it comes."""

import pytest

from tests.plugins.plugin_files import load

module = load("filter", "image_reference")
image_reference, image_sources = module.image_reference, module.image_sources

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


IMAGES = {
    "caddy": {"repository": "library/caddy", "tag": "2", "digest": "sha256:1"},
    "engine": {"repository": "infbox/engine", "tag": "9", "digest": "", "build_target": "cpu"},
}


def test_images_are_pulled_but_for_those_that_can_be_built() -> None:
    sources = image_sources(IMAGES, "", {}, "/archives", "/context")
    assert sources == {
        "caddy": {
            "name": "caddy",
            "source": "pull",
            "reference": "library/caddy:2@sha256:1",
        },
        "engine": {
            "name": "engine",
            "source": "build",
            "reference": "infbox/engine:9",
            "build_context": "/context",
            "build_target": "cpu",
        },
    }


def test_from_a_mirror_all_images_are_pulled() -> None:
    sources = image_sources(IMAGES, "mirror/", {}, "/archives", "/context")
    assert {source["source"] for source in sources.values()} == {"pull"}
    assert sources["engine"]["reference"] == "mirror/infbox/engine:9"


def test_out_of_a_bundle_all_its_images_are_loaded_by_the_names_it_says() -> None:
    bundle = {"images": {"caddy": {"reference": "infbox-bundle/caddy:abc", "checksum": "f00"}}}
    assert image_sources(IMAGES, "mirror/", bundle, "/archives", "/context") == {
        "caddy": {
            "name": "caddy",
            "source": "load",
            "reference": "infbox-bundle/caddy:abc",
            "archive": "/archives/caddy.tar",
            "checksum": "f00",
        }
    }
