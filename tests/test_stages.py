"""What `make test` runs, in which order, and what it leaves out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import run
from tests.stages import LONGEST_FIRST, ROOT, STAGES, WITH_ENGINE, Stage

LAB = Stage("lab", ("true",), "lab")
SYSTEM = Stage("system", ("true",), "system")
ROLE = Stage("role-stack", ("true",), "roles")
UNIT = Stage("unit", ("true",), "unit")

Fake = Callable[[Stage], run.Result]


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that began, in their order; the lab's fails where its command says so."""
    names: list[str] = []

    def fake(stage: Stage) -> run.Result:
        names.append(stage.name)
        return run.Result(stage.name, stage.command == ("true",), [], 0.0)

    monkeypatch.setattr(run, "run", fake)
    monkeypatch.setattr(run, "WORKERS", 1)
    return names


def test_what_needs_the_lab_waits_for_it_however_early_it_stands(began: list[str]) -> None:
    run.run_stages([SYSTEM, UNIT, LAB])
    assert began == ["unit", "lab", "system"]


def test_without_the_lab_the_rest_is_proven_all_the_same(began: list[str]) -> None:
    results = run.run_stages([Stage("lab", ("false",), "lab"), SYSTEM, UNIT])
    assert began == ["lab", "unit"]
    assert [result.passed for result in results] == [False, True]


def test_a_stage_whose_program_is_not_there_has_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "LOGS", tmp_path)
    monkeypatch.setattr(run, "environment", lambda _: {"PATH": str(tmp_path)})
    missing = Stage("missing", ("/nowhere/program",), "system")
    (result,) = run.run_stages([missing])
    assert (result.passed, "/nowhere/program" in result.wrong[0]) == (False, True)


def test_two_stages_have_an_engine_at_once_and_what_has_none_goes_before(
    began: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ENGINES_AT_ONCE", 0)
    queue = run.Queue([SYSTEM, ROLE, UNIT], wants_lab=False)
    assert queue._can_begin(ROLE)
    assert queue._can_begin(UNIT)
    assert not queue._can_begin(SYSTEM)
    monkeypatch.setattr(run, "ENGINES_AT_ONCE", 1)
    queue.work()
    assert began == ["system", "role-stack", "unit"]
    # Those that have ended count no more.
    assert queue._can_begin(SYSTEM)


def test_what_needs_no_lab_leaves_the_cores_to_what_does() -> None:
    assert run.command(UNIT) == ("nice", "-n", "5", "true")
    assert run.command(LAB) == run.command(SYSTEM) == ("true",)


def test_what_is_ordered_by_its_length_is_among_the_stages() -> None:
    assert {*LONGEST_FIRST, *WITH_ENGINE} <= {stage.name for stage in STAGES}
    assert [stage.name for stage in STAGES][: len(LONGEST_FIRST)] == [*LONGEST_FIRST]


def test_all_scenarios_and_all_tests_of_the_lab_are_among_the_stages() -> None:
    commands = [word for stage in STAGES for word in stage.command]
    for file in ROOT.glob("molecule/*/molecule.yml"):
        assert commands.count(file.parent.name) == 1
    for file in ROOT.glob("tests/*/test_*.py"):
        text = file.read_text()
        if "pytest.mark.lab" in text and "pytest.mark.long" not in text:
            assert f"tests/{file.parent.name}" in commands


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ("docs/api.md", {"pages", "system"}),
        ("docs/gpu.md", {"pages"}),
        ("roles/caddy/tasks/main.yml", {"system", "bootstrap", "role-caddy", "unit"}),
        ("roles/common/tasks/main.yml", {"role-docker", "role-caddy"}),
        ("molecule/dcgm/molecule.yml", {"role-dcgm"}),
        ("watcher/src/infbox/tree/files.py", {"unit-watcher", "system", "role-watcher"}),
        ("watcher/tests/tree/test_files.py", {"unit-watcher"}),
        ("a_file_that_nobody_knows", {stage.name for stage in STAGES}),
    ],
)
def test_a_stage_is_left_out_only_where_no_change_can_touch_it(
    changed: str, names: set[str]
) -> None:
    touched = {stage.name for stage in STAGES if stage.is_touched([changed])}
    assert names <= touched


def test_a_change_of_one_role_leaves_others_out() -> None:
    touched = {stage.name for stage in STAGES if stage.is_touched(["roles/dcgm/tasks/main.yml"])}
    assert "role-dcgm" in touched
    assert not touched & {"role-caddy", "role-valkey", "unit-watcher"}


def test_a_page_that_no_host_is_asked_by_needs_none() -> None:
    touched = [stage for stage in STAGES if stage.is_touched(["docs/gpu.md"])]
    assert not [stage.name for stage in touched if stage.needs_lab]


def test_the_slowest_tests_are_told(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "LOGS", tmp_path)
    (run.LOGS / "test-unit.xml").write_text(
        '<testsuites><testsuite><testcase name="test_slow" time="7.2"/>'
        '<testcase name="test_quick" time="0.1"/></testsuite></testsuites>'
    )
    run.say_slowest([run.Result("unit", True, [], 9.0), run.Result("lint", True, [], 30.0)])
    said = capsys.readouterr().out
    assert said.index("30  lint") < said.index("9  unit") < said.index("7  unit test_slow")
