"""What the stack role refuses before it changes anything."""

from pathlib import Path
from typing import Any

import pytest

from tests.stack.refusals import refusals

GATE = {"name": "answers", "url": "http://127.0.0.1/"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no_service": ({"stack_services": []}, "List at least one service"),
    "a_service_twice": ({"stack_services": ["a", "a"]}, "each once"),
    "a_folder_of_ours": ({"stack_services": ["compose"]}, "compose and host are not"),
    "the_host": ({"stack_services": ["host"]}, "compose and host are not"),
    "a_path": ({"stack_services": ["../a"]}, 'stack_services is ["../a"]'),
    "a_project_in_capitals": ({"stack_project": "Infbox"}, 'stack_project is "Infbox"'),
    "no_release_kept": ({"stack_keep_releases": 0}, "stack_keep_releases is 0"),
    "no_time": ({"stack_health_timeout": 0}, "stack_health_timeout is 0"),
    "no_restart": ({"stack_autoheal_restarts": 0}, "stack_autoheal_restarts is 0"),
    "no_window": ({"stack_autoheal_window": 0}, "or set stack_autoheal to false"),
    "a_request_twice": (
        {"stack_health_checks": [GATE, GATE]},
        "names a request twice: answers, answers",
    ),
    "a_request_without_url": (
        {"stack_health_checks": [{"name": "x"}]},
        "missing required arguments: url",
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stack")
    paths = {
        "stack_staging_dir": str(folder / "staging"),
        "stack_releases_dir": str(folder / "releases"),
        "stack_live_link": str(folder / "live"),
        "stack_current_link": str(folder / "current"),
    }
    cases = {name: {**paths, **variables} for name, (variables, _) in CASES.items()}
    return refusals(folder, "stack", {**cases, "a_new_host": paths})


@pytest.mark.parametrize("case", CASES)
def test_it_refuses(said: dict[str, str], case: str) -> None:
    assert CASES[case][1] in said[case]


def test_check_mode_passes_on_a_host_where_nothing_was_rendered(said: dict[str, str]) -> None:
    assert said["a_new_host"] == ""


def test_a_service_that_was_not_rendered_is_named(tmp_path: Path) -> None:
    (tmp_path / "staging/compose").mkdir(parents=True)
    (tmp_path / "staging/compose/one.yml").touch()
    variables = {
        "stack_services": ["one", "two", "three"],
        "stack_staging_dir": str(tmp_path / "staging"),
        "stack_releases_dir": str(tmp_path / "releases"),
        "stack_live_link": str(tmp_path / "live"),
        "stack_current_link": str(tmp_path / "current"),
    }
    said = refusals(tmp_path, "stack", {"host": variables}, check=False)["host"]
    assert "compose has no fragment of two, three. Run the roles of these services first" in said
    assert not (tmp_path / "releases").exists()
