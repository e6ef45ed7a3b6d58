"""What each user had, from what each host counted: summed over hosts, as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

COUNTS = (
    *("requests", "uncounted_requests"),
    *("prompt_tokens", "cached_tokens", "completion_tokens"),
)
COLUMNS = {
    "": ("day", "user", "teams", "workspace"),
    "user": ("day", "user"),
    "team": ("day", "team"),
    "workspace": ("day", "workspace"),
}
"""What stands before the counts, by what is summed."""

Rows = Iterable[Mapping[str, Any]]


def usage_report(
    hosts: Mapping[str, Rows | str], members: Mapping[str, Iterable[str]], by: str = ""
) -> dict[str, Any]:
    """Return what each user had, summed over the hosts.

    Args:
        hosts: what each counted, as `infbox-gateway usage --json` prints it; an empty text where
            it did not say.
        members: the users of each team, by its name.
        by: one of `user`, `team` and `workspace`, to sum what the others had; empty for all of it.
            A user of several teams counts in each of them.

    Returns:
        `by`, `missing`, the hosts that did not say, and `usage`, the rows in order.
    """
    teams_of: dict[str, list[str]] = {}
    for team, users in members.items():
        for user in users:
            teams_of.setdefault(user, []).append(team)
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in (row for rows in hosts.values() if not isinstance(rows, str) for row in rows):
        teams = sorted(teams_of.get(row["user"], []))
        for team in (teams or [""]) if by == "team" else [""]:
            told = {**row, "team": team, "teams": " ".join(teams)}
            key = tuple(told[name] for name in COLUMNS[by])
            total = sums.setdefault(key, [0] * len(COUNTS))
            for place, name in enumerate(COUNTS):
                total[place] += row[name]
    names = (*COLUMNS[by], *COUNTS)
    return {
        "by": by or None,
        "missing": [host for host, rows in hosts.items() if isinstance(rows, str)],
        "usage": [dict(zip(names, (*key, *sums[key]), strict=True)) for key in sorted(sums)],
    }


def usage_text(report: Mapping[str, Any]) -> str:
    """Return a report as a table for people, a line a row, and the sums at its end."""
    names = _names(report)
    if not report["usage"]:
        return "Nothing was counted yet."
    rows = [[_told(row[name]) for name in names] for row in report["usage"]]
    totals = [_told(sum(row[name] for row in report["usage"])) for name in COUNTS]
    # A user of several teams is in several rows.
    last = [] if report["by"] == "team" else [["total", *[""] * (len(names) - len(COUNTS) - 1)]]
    table = [
        [name.replace("_", " ") for name in names],
        *rows,
        *([*each, *totals] for each in last),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    keys = len(names) - len(COUNTS)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < keys else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def usage_csv(report: Mapping[str, Any]) -> str:
    """Return a report as CSV, with a line of names, and without the last end of a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _names(report), lineterminator="\n")
    writer.writeheader()
    writer.writerows(report["usage"])
    return text.getvalue().rstrip("\n")


def _names(report: Mapping[str, Any]) -> tuple[str, ...]:
    return (*COLUMNS[report["by"] or ""], *COUNTS)


def _told(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "-"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"usage_csv": usage_csv, "usage_report": usage_report, "usage_text": usage_text}
