"""Configuration that cannot be used is refused by name, with the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infbox import config, kinds
from infbox.errors import InputError, UnreadyError


def valid(folder: Path) -> dict[str, Any]:
    return {
        "state_dir": "/var/lib/infbox/watcher",
        "engine": {"url": "http://127.0.0.1:8000", "model": "coder", "max_model_len": 16384},
        "workspaces": [{"name": "shop", "path": str(folder), "budget": 6000}],
    }


def load(folder: Path, content: object) -> config.Config:
    file = folder / "watcher.yml"
    file.write_text(yaml.safe_dump(content))
    return config.load(file)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    loaded = load(tmp_path, valid(tmp_path))
    assert str(loaded.watcher.listen) == "127.0.0.1:8011"
    assert str(loaded.gateway.listen) == "127.0.0.1:8010"
    assert loaded.engine.tokenizer is None
    assert loaded.workspaces == (config.Workspace("shop", tmp_path, 6000),)


def test_what_a_workspace_or_the_watcher_may_set_is_read(tmp_path: Path) -> None:
    content = valid(tmp_path)
    content["engine"]["lmcache"] = "http://127.0.0.1:8020/"
    content["watcher"] = {"poll_seconds": 30}
    content["workspaces"][0]["model"] = "coder-small"
    loaded = load(tmp_path, content)
    assert loaded.engine.lmcache == "http://127.0.0.1:8020"
    assert loaded.watcher.poll_seconds == 30
    assert loaded.workspaces[0].model == "coder-small"
    assert load(tmp_path, valid(tmp_path)).engine.lmcache is None


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yml"
    file.write_text("""\
state_dir: /var/lib/infbox/watcher
engine:
  url: http://127.0.0.1:8000
  model: coder                  # the name vLLM serves
  tokenizer: /var/lib/infbox/models/SLUG/tokenizer.json
  max_model_len: 16384          # tokens
watcher:
  listen: 127.0.0.1:8011
gateway:
  listen: 127.0.0.1:8010
workspaces:
  - {name: shop, path: /srv/shop, budget: 6000}   # tokens
""")
    loaded = config.load(file)
    assert loaded.engine.tokenizer == Path("/var/lib/infbox/models/SLUG/tokenizer.json")
    assert loaded.workspaces[0].path == Path("/srv/shop")


def test_replicas_are_there_where_they_are_named(tmp_path: Path) -> None:
    replicas = {"balancer": "http://127.0.0.1:8015", "host": "gpu1"}
    loaded = load(tmp_path, {**valid(tmp_path), "replicas": replicas})
    assert loaded.replicas == config.Replicas("http://127.0.0.1:8015", "gpu1")
    assert load(tmp_path, valid(tmp_path)).replicas is None


def test_weights_that_are_set_stand_beside_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, valid(tmp_path)).weights == kinds.DEFAULTS
    weights = {"pack": {"docs": 1}, "retrieval": {"tests": 0.9}}
    loaded = load(tmp_path, {**valid(tmp_path), "weights": weights}).weights
    assert loaded.pack == {**kinds.PACK_WEIGHTS, kinds.FileKind.DOCS: 1.0}
    assert loaded.retrieval == {**kinds.RETRIEVAL_WEIGHTS, kinds.FileKind.TESTS: 0.9}


WRONG = [
    ({"weights": {"packs": {}}}, "weights.packs: unknown"),
    ({"weights": {"pack": [1]}}, "weights.pack: must be a mapping"),
    ({"weights": {"pack": {"doc": 1}}}, "weights.pack.doc is not a kind of file: use source"),
    ({"weights": {"retrieval": {"docs": "1"}}}, "weights.retrieval.docs: must be a number"),
    ({"replicas": {"host": "gpu1"}}, "replicas.balancer: missing"),
    ({"replicas": {"balancer": "http://a:1"}}, "replicas.host: missing"),
    ({"replicas": {"balancer": "http://a:1", "host": "g 1"}}, "replicas.host: 'g 1': use"),
    ({"replicas": {"balancer": "http://a:1", "host": "g", "x": 1}}, "replicas.x: unknown"),
    ({"state_dir": None}, "state_dir: missing"),
    ({"state_dir": "relative"}, "state_dir: must be an absolute path"),
    ({"engine": "x"}, "engine: must be a mapping"),
    ({"engine.url": "ftp://x"}, "engine.url: must be http://HOST:PORT"),
    ({"engine.url": ""}, "engine.url: must be http://HOST:PORT"),
    ({"engine.lmcache": "127.0.0.1:8020"}, "engine.lmcache: must be http://HOST:PORT"),
    ({"engine.model": None}, "engine.model: missing"),
    ({"watcher": {"poll_seconds": 0}}, "watcher.poll_seconds: must be larger than 0"),
    ({"engine.max_model_len": True}, "engine.max_model_len: must be a whole number"),
    ({"engine.max_model_len": 0}, "engine.max_model_len: must be larger than 0"),
    ({"engine.speed": 1}, "engine.speed: unknown"),
    ({"colour": 1}, "colour: unknown"),
    ({"watcher": {"listen": "8011"}}, "watcher.listen: must be HOST:PORT"),
    ({"gateway": {"listen": "127.0.0.1:99999"}}, "gateway.listen: must be HOST:PORT"),
    (
        {"gateway": {"hold_seconds": 5}},
        "gateway.hold_seconds: is now named request_queue_timeout_s",
    ),
    ({"gateway": {"listen": "127.0.0.1:http"}}, "gateway.listen: must be HOST:PORT"),
    ({"workspaces": {}}, "workspaces: must be a list"),
    ({"workspaces": ["shop"]}, r"workspaces\[0\]: must be a mapping"),
    ({"workspaces.0.name": "a b"}, r"workspaces\[0\].name: 'a b': use letters"),
    ({"workspaces.0.name": "../up"}, r"workspaces\[0\].name"),
    ({"workspaces.0.path": "srv"}, r"workspaces\[0\].path: must be an absolute path"),
    ({"workspaces.0.budget": 16385}, r"workspaces\[0\].budget: 16385 tokens .*max_model_len"),
    ({"workspaces.0.budget": "many"}, r"workspaces\[0\].budget: must be a whole number"),
    ({"workspaces.0.colour": 1}, r"workspaces\[0\].colour: unknown"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_value_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = valid(tmp_path)
    for place, value in change.items():
        *parents, last = place.split(".")
        target: Any = content
        for parent in parents:
            target = target[int(parent) if parent.isdecimal() else parent]
        target[last] = value
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/watcher.yml: ")
    assert "\n" not in str(caught.value)


def overlaid(folder: Path, **more: Any) -> dict[str, Any]:
    content = valid(folder)
    overlay = {"name": "anna", "path": str(folder / "anna"), "budget": 7500, "base": "shop"}
    content["workspaces"].insert(0, {**overlay, **more})
    return content


def test_an_overlay_is_for_its_bases_model(tmp_path: Path) -> None:
    content = overlaid(tmp_path)
    content["workspaces"][1]["model"] = "small"
    overlay, base = load(tmp_path, content).workspaces
    assert (overlay.base, overlay.model) == ("shop", "small")
    assert base.base is None
    content["workspaces"][0]["model"] = "small"
    assert load(tmp_path, content).workspaces[0] == overlay


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"base": "shap"},
            "workspaces: anna: base shap is not a workspace: add it, or fix the name",
        ),
        ({"base": "anna"}, "workspaces: anna: base anna is itself: name a workspace without"),
        ({"model": "other"}, "anna: model other is not that of its base shop, .*: leave it out"),
        ({"budget": 6000}, "anna: budget 6000 leaves no space beside its base shop, .*: give more"),
        ({"base": 1}, r"workspaces\[0\].base: must be text"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, overlaid(tmp_path, **more))


def test_an_overlay_of_an_overlay_is_refused(tmp_path: Path) -> None:
    content = overlaid(tmp_path)
    ben = {"name": "ben", "path": str(tmp_path / "ben"), "budget": 9000, "base": "anna"}
    content["workspaces"].append(ben)
    with pytest.raises(InputError, match="ben: base anna is an overlay, of shop: name a workspace"):
        load(tmp_path, content)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    content = valid(tmp_path)
    content["workspaces"] *= 2
    with pytest.raises(InputError, match="shop is listed twice"):
        load(tmp_path, content)


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "watcher.yml").write_text(text)
    with pytest.raises(InputError, match=r"watcher\.yml: "):
        config.load(tmp_path / "watcher.yml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        config.load(tmp_path / "none.yml")


def test_a_path_that_is_not_there_may_still_come(tmp_path: Path) -> None:
    loaded = load(tmp_path, valid(tmp_path / "none"))
    with pytest.raises(UnreadyError, match=r"shop: .*/none is not a directory"):
        config.check_paths(loaded)


def test_a_workspace_inside_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inner")
    content = valid(tmp_path)
    content["workspaces"].append({"name": "b", "path": str(tmp_path / "link"), "budget": 1})
    with pytest.raises(InputError, match=r"b: .* is inside the workspace shop"):
        config.check_paths(load(tmp_path, content))
