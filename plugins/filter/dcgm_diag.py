"""What DCGM's diagnostics found on a host's GPUs, from the output of `dcgmi diag --json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Result = dict[str, Any]

# The names of the document's root since DCGM 4, and before it.
ROOTS = ("DCGM Diagnostic", "DCGM GPU Diagnostic")

# DCGM's severities with which a GPU can stay in use: monitor it, or change its settings. With any
# other severity, or none, a person must check the GPU first.
BEARABLE = frozenset({"1", "5"})


def dcgm_diag(text: str) -> dict[str, Any]:
    """Read what `dcgmi diag --json` printed.

    Args:
        text: its output; text before the document is ignored.

    Returns:
        version of DCGM ("" where not told), error ("" where the diagnostics ran through) and
        results: test, gpu (DCGM's number, which is the driver's; -1 for the host), status ("pass",
        "fail", "warn" or "skip"), severity ("" for none, "warning" or "critical") and messages.
    """
    start = text.find("{")
    try:
        document = json.loads(text[start:]) if start >= 0 else {}
    # Python raises RecursionError for JSON that is nested too deeply.
    except (ValueError, RecursionError):
        document = {}
    root = next((document[name] for name in ROOTS if name in document), None)
    if not isinstance(root, Mapping):
        said = " ".join(text.split())[:200]
        return {"version": "", "error": f"no result came ({said or 'nothing'})", "results": []}
    version = mapping(document.get("metadata")).get("version") or root.get("version") or ""
    results = list(read_results(root))
    error = str(root.get("runtime_error") or "")
    if not results and not error:
        error = "not one test ran"
    return {"version": str(version), "error": error, "results": results}


def read_results(root: Mapping[str, Any]) -> Iterator[Result]:
    """Return each test's result of each GPU."""
    for category in mappings(root.get("test_categories")):
        # DCGM 3 puts a null after some tests.
        for test in mappings(category.get("tests")):
            for result in mappings(test.get("results")):
                for gpu in gpus_of(result):
                    yield judged(str(test.get("name", "unnamed")), gpu, result)


def mapping(given: Any) -> Mapping[str, Any]:
    """Return a mapping; an empty one for anything else."""
    return given if isinstance(given, Mapping) else {}


def mappings(given: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list; anything else has none."""
    return [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []


def gpus_of(result: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the GPUs that a result is about, -1 for the host."""
    if "gpu_ids" in result:
        return [
            gpu_number(number) for number in str(result["gpu_ids"]).split(",") if number.strip()
        ]
    is_gpu = result.get("entity_group", "GPU") == "GPU"
    return [gpu_number(result.get("entity_id", -1)) if is_gpu else -1]


def gpu_number(given: Any) -> int:
    """Return the number of a GPU, or -1 if there is none."""
    told = str(given).strip()
    return int(told) if re.fullmatch(r"[0-9]{1,4}", told) else -1


def judged(test: str, gpu: int, result: Mapping[str, Any]) -> Result:
    """Return a result with its severity."""
    status = str(result.get("status", "")).lower().removesuffix("ped")
    warnings = warnings_of(result)
    found = {
        "test": test,
        "gpu": gpu,
        "status": status,
        "messages": [str(each.get("warning", "")) for each in warnings],
        "severity": "",
    }
    if status == "warn":
        found["severity"] = "warning"
    elif status not in {"pass", "skip"}:
        told = {str(each.get("error_severity")) for each in warnings}
        found["severity"] = "warning" if told and told <= BEARABLE else "critical"
    return found


def warnings_of(result: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what a result warns of, as DCGM 4 does; older ones give one text, or a list."""
    given = result.get("warnings") or []
    if not isinstance(given, list):
        given = [given]
    return [each if isinstance(each, Mapping) else {"warning": each} for each in given]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"dcgm_diag": dcgm_diag}
