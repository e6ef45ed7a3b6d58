"""What DCGM's diagnostics found.

The documents have the shape and the values of real ones, and messages of our own: DCGM 4.2.3 on a
GB10 (levels 1 and 2, public test data of baldwinSPC/glimmer-burnin), DCGM 4 on eight GPUs whose
persistence was off, and DCGM 3.2 (as public tests describe both). Those with a GPU that fails a
test are composed by DCGM's schema, testing/python3/dcgm_diag_schema.json.
"""

import json
from typing import Any

import pytest

from tests.plugins.plugin_files import load

dcgm_diag = load("filter", "dcgm_diag").dcgm_diag

PERSISTENCE = {"error_category": 8, "error_id": 29, "error_severity": 5, "warning": "persistence"}


def result(gpu: int, status: str, *warnings: dict[str, Any], group: str = "GPU") -> dict[str, Any]:
    found: dict[str, Any] = {
        "entity_group": group,
        "entity_group_id": 1,
        "entity_id": gpu,
        "status": status,
    }
    return found | ({"warnings": list(warnings)} if warnings else {})


def document(**tests: list[dict[str, Any]]) -> str:
    """Return a document of DCGM 4 with the results of tests by name, each in its own category."""
    categories = [
        {
            "category": "Hardware",
            "tests": [{"name": name, "results": results, "test_summary": {"status": "Pass"}}],
        }
        for name, results in tests.items()
    ]
    return json.dumps(
        {
            "DCGM Diagnostic": {"test_categories": categories},
            "entity_groups": [],
            "metadata": {"Driver Version Detected": "580.82.09", "version": "4.2.3"},
        }
    )


def severities(text: str) -> list[tuple[str, int, str]]:
    return [(each["test"], each["gpu"], each["severity"]) for each in dcgm_diag(text)["results"]]


def test_a_gb10_whose_persistence_is_off_is_worth_a_look_and_not_broken() -> None:
    skipped = result(0, "Skip")
    seen = dcgm_diag(
        document(software=[result(0, "Fail", PERSISTENCE)], memory=[skipped], pcie=[skipped])
    )
    assert (seen["version"], seen["error"]) == ("4.2.3", "")
    assert [each["status"] for each in seen["results"]] == ["fail", "skip", "skip"]
    assert [each["severity"] for each in seen["results"]] == ["warning", "", ""]
    assert seen["results"][0]["messages"] == ["persistence"]


def test_every_gpu_has_its_own_result() -> None:
    sound = [result(gpu, "Pass") for gpu in range(8)]
    sound[3] = result(3, "Fail", {"error_severity": 2, "warning": "uncorrectable memory"})
    assert [each for each in severities(document(memory=sound)) if each[2]] == [
        ("memory", 3, "critical")
    ]


@pytest.mark.parametrize("severity", [2, 3, 4, 6])
def test_a_gpu_that_cannot_go_on_is_critical(severity: int) -> None:
    failed = result(0, "Fail", {"error_severity": severity, "warning": "x"}, PERSISTENCE)
    assert severities(document(pcie=[failed])) == [("pcie", 0, "critical")]


def test_a_failure_without_a_reason_is_critical() -> None:
    assert severities(document(pcie=[result(0, "Fail")])) == [("pcie", 0, "critical")]


def test_what_is_not_of_a_gpu_is_of_the_host() -> None:
    assert severities(document(nvswitch=[result(2, "Warn", group="NvSwitch")])) == [
        ("nvswitch", -1, "warning")
    ]


def test_dcgm_3_names_gpus_in_a_list_and_puts_nulls_between_tests() -> None:
    tests = [
        {"name": "Denylist", "results": [{"gpu_ids": "0,1", "status": "PASS"}]},
        None,
        {"name": "PCIe", "results": [{"gpu_ids": "1", "status": "FAIL", "warnings": ["slow"]}]},
        {"name": "Memory", "results": [{"gpu_ids": "0", "status": "SKIPPED"}]},
    ]
    root = {"test_categories": [{"category": "Deployment", "tests": tests}], "version": "3.2.0"}
    text = "a line that the program says first\n" + json.dumps({"DCGM GPU Diagnostic": root})
    seen = dcgm_diag(text)
    assert seen["version"] == "3.2.0"
    assert [(each["gpu"], each["status"]) for each in seen["results"]] == [
        (0, "pass"),
        (1, "pass"),
        (1, "fail"),
        (0, "skip"),
    ]
    assert seen["results"][2]["severity"] == "critical"
    assert seen["results"][2]["messages"] == ["slow"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no result came (nothing)"),
        ("Error: unable to establish a connection", "(Error: unable to establish a connection)"),
        ('{"DCGM Diagnostic": {"test_categories": [', "no result came"),
        ('{"other": 1}', "no result came"),
        ('{"DCGM Diagnostic": {"runtime_error": "busy"}}', "busy"),
        ('{"DCGM Diagnostic": {"test_categories": []}}', "not one test ran"),
    ],
)
def test_diagnostics_without_a_result_say_why(text: str, why: str) -> None:
    assert why in dcgm_diag(text)["error"]


TESTS = '{"DCGM Diagnostic": {"test_categories": [{"tests": [{"results": [{%s}]}]}]}}'


@pytest.mark.parametrize(
    "document",
    [
        '{"DCGM Diagnostic": {"test_categories": 7}}',
        '{"DCGM Diagnostic": {"test_categories": [7, null, {"tests": {"a": 1}}]}}',
        TESTS % '"gpu_ids": "a,b"',
        TESTS % '"entity_id": [], "status": "Fail", "warnings": {"error_severity": {}}',
        '{"DCGM Diagnostic": {}, "metadata": []}',
        '{"DCGM Diagnostic": ' + "[" * 100_000,
        '{"DCGM Diagnostic": {"runtime_error": ' + "9" * 5000 + "}}",
    ],
)
def test_output_of_another_form_is_no_traceback(document: str) -> None:
    found = dcgm_diag(document)
    assert found["error"] or found["results"]
