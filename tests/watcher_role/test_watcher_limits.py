"""What the watcher's unit may take, by how many workspaces there are."""

from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.plugins import plugin_files

ROLE = Path(__file__).resolve().parents[2] / "roles/watcher"


def unit(count: int, **given: Any) -> dict[str, str]:
    """Render the watcher's unit for so many workspaces, by the role's defaults, and read it."""
    environment = jinja2.Environment(  # noqa: S701  # a unit is no page
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True
    )
    environment.tests["match"] = lambda text, start: text.startswith(start)
    environment.filters["dirname"] = lambda path: path.rpartition("/")[0]
    workspaces = [{"name": f"w{n}", "path": f"/srv/w{n}", "budget": 1000} for n in range(count)]
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    values = {**defaults, "watcher_workspaces": workspaces, **given}
    for name in ("watcher_memory_high", "watcher_memory_max"):
        values[name] = environment.from_string(values[name]).render(values)
    inner = {"ansible_managed": "", "_watcher_shown": [], "_watcher_sign_in_secret": "/etc/x/y"}
    text = environment.get_template("infbox-watcher.service.j2").render(values | inner)
    settings = (line.partition("=") for line in text.splitlines() if line[:1].isalpha())
    return {name: value for name, _, value in settings}


def megabytes(size: str) -> int:
    assert size.endswith("M")
    return int(size[:-1])


@pytest.mark.parametrize("count", [0, 1, 60, 500])
def test_memory_and_files_follow_the_number_of_workspaces(count: int) -> None:
    found = unit(count)
    assert megabytes(found["MemoryHigh"]) == 1024 + 64 * count
    assert megabytes(found["MemoryMax"]) == 2048 + 64 * count
    # Seen with sixty: 14 descriptors each, in two processes that have the limit each.
    assert int(found["LimitNOFILE"]) >= 1024 + 14 * count
    assert int(found["TasksMax"]) > 2 * count


def test_what_is_given_holds_whatever_the_number() -> None:
    given = {"watcher_memory_high": "700M", "watcher_memory_max": "900M"}
    found = unit(60, **given)
    assert (found["MemoryHigh"], found["MemoryMax"]) == ("700M", "900M")


def test_the_watchdog_outlasts_what_it_takes_to_see_that_a_tree_hangs() -> None:
    """Else one that comes to hang would have all restarted before it is known to."""
    follow = (ROLE.parents[1] / "watcher/src/infbox/watching/follower.py").read_text()
    hung = next(line for line in follow.splitlines() if line.startswith("HUNG_SECONDS = "))
    assert float(hung.rpartition(" ")[2]) < int(unit(1)["WatchdogSec"]) / 3


@pytest.mark.parametrize("now", ["8192", "1048576"])
def test_what_is_noted_for_the_next_boot_never_lowers_a_limit(now: str, tmp_path: Path) -> None:
    """A kernel with 128 GB allows a million watches by itself."""
    inner = {"ansible.builtin.include_vars": str(ROLE / "vars/main.yml")}
    source = str(ROLE / "templates/sysctl.conf.j2")
    render = {
        "ansible.builtin.copy": {
            "content": "{{ lookup('ansible.builtin.template', source) }}",
            "dest": str(tmp_path / "sysctl.conf"),
            "mode": "0600",
        }
    }
    variables = {
        "source": source,
        "watcher_inotify_watches": 524288,
        "watcher_inotify_instances": 512,
        "__watcher_limits": {"stdout_lines": [now, "128"]},
    }
    plugin_files.play(tmp_path, [inner, render], variables)
    lines = (tmp_path / "sysctl.conf").read_text().splitlines()
    assert [line for line in lines if line[0] != "#"] == [
        f"fs.inotify.max_user_watches = {max(int(now), 524288)}",
        "fs.inotify.max_user_instances = 512",
    ]
