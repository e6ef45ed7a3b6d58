"""Whether a unit is active, enabled and no older than its files; molecule tries it on real ones."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.plugins.plugin_files import load, on_a_terminal

module = load("action", "unit")

# As systemd 257 prints it.
SHOWN = [
    "ExecMainStartTimestamp=Mon 2026-11-30 12:00:00.250000 UTC",
    "ActiveState=active",
    "SubState=running",
    "UnitFileState=enabled",
    "NeedDaemonReload=no",
]
START = 1796040000.25
# Of a timer, which has no program.
TIMER = [SHOWN[0].replace("ExecMainStart", "ActiveEnter"), *SHOWN[1:]]


def shown(old: str = "", new: str = "") -> list[str]:
    """Return what systemd prints, with one text in place of another."""
    lines = [line.replace(old, new) for line in SHOWN] if old else SHOWN
    assert lines != SHOWN or not old
    return lines


def file_line(path: str, time: float) -> str:
    """Return what `find` prints of a file."""
    return f"file {time:.10f} {path}"


def test_a_unit_that_is_as_it_should_be_needs_nothing() -> None:
    assert module.state([*shown(), file_line("/etc/a", START - 0.1)]).is_right
    assert module.state(shown()).is_right


def test_a_file_that_is_newer_than_the_start_by_less_than_a_second_counts() -> None:
    lines = [*shown(), file_line("/etc/a", START - 60), file_line("/etc/b c", START + 0.1)]
    assert module.state(lines).reasons == ["/etc/b c is newer than its start"]


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("ActiveState=active", "ActiveState=inactive", ["it is not active"]),
        ("12:00:00.250000 UTC", "", ["systemd does not say since when it runs"]),
        ("Reload=no", "Reload=yes", ["its unit file is newer than what systemd has loaded"]),
    ],
)
def test_a_unit_that_does_not_run_what_it_should_is_restarted(
    old: str, new: str, reasons: list[str]
) -> None:
    found = module.state(shown(old, new))
    assert (found.reasons, found.is_right) == (reasons, False)


def test_a_unit_that_is_being_started_is_not_restarted() -> None:
    starting = [
        line.replace("SubState=running", "SubState=start")
        for line in shown("ActiveState=active", "ActiveState=activating")
    ]
    assert module.state(starting).is_right
    newer = module.state([*starting, file_line("/etc/a", START + 1)])
    assert newer.reasons == ["/etc/a is newer than its start"]
    failing = [line.replace("SubState=start", "SubState=auto-restart") for line in starting]
    assert module.state(failing).reasons == ["it is not active"]


def test_a_unit_that_is_not_enabled_is_not_restarted() -> None:
    found = module.state(shown("UnitFileState=enabled", "UnitFileState=disabled"))
    assert (found.reasons, found.is_enabled, found.is_right) == ([], False, False)
    assert found.lines("a.service") == "a.service: it does not start at boot\n"


def test_a_static_unit_has_nothing_to_enable() -> None:
    assert module.state(shown("UnitFileState=enabled", "UnitFileState=static")).is_right


def test_a_unit_that_starts_at_boot_alone_need_not_be_active() -> None:
    lines = [*shown("=active", "=inactive"), file_line("/etc/a", START + 1)]
    assert module.state(lines, started=False).is_right


def test_of_a_unit_that_starts_at_boot_alone_systemd_has_the_current_text() -> None:
    found = module.state(shown("Reload=no", "Reload=yes"), started=False)
    assert (found.reasons, found.is_stale, found.is_right) == ([], True, False)
    assert found.lines("a.service") == (
        "a.service: its unit file is newer than what systemd has loaded\n"
    )


def test_a_timer_is_restarted_by_current_texts_where_a_file_is_newer_than_its_start() -> None:
    assert module.state([*TIMER, file_line("/etc/a.timer", START - 0.1)]).is_right
    found = module.state([*TIMER, file_line("/etc/a.service", START + 0.1)])
    assert found.reasons == ["/etc/a.service is newer than its start"]
    assert found.is_stale, "systemd may have an older text of the service"


def test_a_service_whose_program_never_ran_is_not_as_old_as_its_state() -> None:
    found = module.state([TIMER[0], *shown("Mon 2026-11-30 12:00:00.250000 UTC", "")])
    assert found.reasons == ["systemd does not say since when it runs"]


def test_without_files_no_directory_is_searched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = module.state_command("a.service", [])
    told = subprocess.run(  # noqa: S602
        command, shell=True, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert not [line for line in told.stdout.splitlines() if line.startswith("file ")]


def test_what_was_not_understood_counts_as_missing() -> None:
    found = module.state(["System has not been booted with systemd"])
    assert (found.reasons, found.is_enabled, found.is_stale) == (["it is not active"], False, True)


def test_files_are_found_below_directories_and_links_by_themselves(tmp_path: Path) -> None:
    deep = tmp_path / "a directory/deep"
    deep.parent.mkdir()
    deep.write_text("")
    link = tmp_path / "link"
    link.symlink_to(deep)
    os.utime(deep, (START, START + 1))
    os.utime(deep.parent, (START, START))
    os.utime(link, (START, START), follow_symlinks=False)
    find = module.state_command("a.service", [str(deep.parent), str(link), "/nowhere/at all"])
    command = "{ " + find.partition("; ")[2]
    assert find.startswith("{ systemctl --no-pager show ")
    told = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    found = module.state([*shown(), *told.stdout.splitlines()])
    assert found.reasons == [f"{deep} is newer than its start"]


def test_on_a_terminal_the_same_is_told(tmp_path: Path) -> None:
    # As with `less`, which ends each line of what it shows in a colour.
    paged = "[ -t 1 ] && end='\\033[m' || end=''"
    stand_in = tmp_path / "systemctl"
    printed = "; ".join(f'printf "{line}$end\\n"' for line in SHOWN)
    stand_in.write_text(f"#!/bin/sh\n{paged}\n{printed}\n")
    stand_in.chmod(0o755)
    command = module.state_command("a.service", ["/nowhere"])
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert module.state(on_a_terminal(command, PATH=path, TERM="xterm")).is_right
