"""docs/performance.md and the README show what the benchmarks' results say, and nothing else."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.figures import __main__ as runner
from bench.figures import benches, page, plots, results
from bench.figures.benches import BENCHES, ROOT, Bench
from bench.figures.promises import SECTIONS, Promise
from bench.figures.results import MEASURED, Result
from bench.growth.curves import Curve

RESULT = Result(
    "python -m bench.x", "2026-01-02", "2 cores", "load 1", [], ("2026-01-02", MEASURED)
)
PROMISES = [promise for rows in SECTIONS.values() for promise in rows]


@pytest.mark.parametrize("file", [runner.PAGE, runner.README], ids=lambda file: str(file.name))
def test_a_page_shows_what_the_results_say(file: Path) -> None:
    wanted = runner.texts()[file]
    assert file.read_text() == wanted, "python -m bench.figures page writes it anew"


def test_the_pictures_are_those_of_the_results(tmp_path: Path) -> None:
    plots.draw(results.read, tmp_path)
    drawn = {path.name: shapes(path) for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: shapes(path) for path in runner.PICTURES.glob("*.svg")}


def shapes(file: Path) -> list[str]:
    """What a picture shows: its words, and how many lines it has, whoever drew it."""
    text = file.read_text()
    return [*re.findall(r"<text[^>]*>([^<]*)</text>", text), str(text.count("<path"))]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.text)
def test_each_promise_has_its_figure(promise: Promise) -> None:
    result = results.read(promise.bench)
    if result is None:
        pytest.skip("the page says that it was not measured yet")
    assert promise.figure(result.figures) is not None


def test_each_result_names_its_command_date_and_machine() -> None:
    for file in results.DIRECTORY.glob("*.json"):
        kept = results.read(file.stem)
        assert kept
        assert kept.command
        assert kept.last_run[1]
        assert not kept.figures or (re.fullmatch(r"\d{4}-\d\d-\d\d", kept.date) and kept.machine)


def test_a_missed_bar_is_named() -> None:
    slow = replace(RESULT, figures=[{"what": "memory, pack of 32,000 tokens", "seen": 101}])
    named = list(page.missed(lambda name: slow if name == "watch" else None))
    assert named == ["- Memory of the watcher with a pack of 32,000 tokens: 101 MB, bar 100 MB."]


def test_a_bar_of_a_floor_moves_with_it() -> None:
    promise = Promise("A start", "x", ["seen"], "ms", bar=2, floor=["floor"], of_floor=True)
    assert promise.is_kept({"seen": 200, "floor": 100})
    assert not promise.is_kept({"seen": 200, "floor": 99})


class Ran:
    """A benchmark of a few lines in place of a real one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bench = Bench("quick")
        monkeypatch.setattr(benches, "ROOT", folder)
        (folder / "bench").mkdir()
        (folder / "bench/__init__.py").touch()
        monkeypatch.delenv("PYTHONPATH", raising=False)

    def once(self, source: str, **changes: Any) -> Result:
        (self.folder / "bench/quick.py").write_text(f"import json, sys, time\n{source}\n")
        return benches.run(replace(self.bench, **changes), lambda _: None, self.folder)


WRITES = "open(sys.argv[-1], 'w').write(json.dumps({'ms': 7}))"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    return Ran(tmp_path, monkeypatch)


def test_a_result_is_kept_with_its_command_and_machine(ran: Ran) -> None:
    kept = ran.once(WRITES)
    assert kept == results.read("quick", ran.folder)
    assert (kept.figures, kept.command) == ({"ms": 7}, "python -m bench.quick")
    assert re.match(r"\d+ cores, \d+ GB, ", kept.machine)


@pytest.mark.parametrize(
    ("source", "minutes", "outcome"),
    [
        ("sys.exit('no engine')", 1, "failed with status 1: no engine"),
        ("time.sleep(600)", 0.01, "too long: not done after 0.01 minutes"),
        ("pass", 1, "failed: it wrote no figures"),
    ],
)
def test_one_that_gives_no_figures_says_why_and_keeps_the_earlier_ones(
    ran: Ran, source: str, minutes: float, outcome: str
) -> None:
    before = ran.once(WRITES)
    after = ran.once(source, minutes=minutes)
    assert after == replace(before, last_run=(before.last_run[0], outcome))
    runs = list(page.runs(lambda name: after if name == "watch" else None))
    assert any(outcome in row for row in runs)


def a_curve(*points: tuple[int, float, float]) -> dict[str, Any]:
    return Curve("start", "s of CPU", "files", "git", points=[*points]).json()


def test_what_was_run_by_hand_is_kept_beside_the_sizes_that_it_left_out(tmp_path: Path) -> None:
    file = tmp_path / "written.json"
    growth = next(bench for bench in BENCHES if bench.name == "growth")
    kept: dict[str, Any] = {}
    for figures in (
        {"start": a_curve((1, 1, 1), (100, 100, 9), (10, 9, 3)), "memory": a_curve((1, 5, 5))},
        {"start": a_curve((100, 10_001, 9), (10, 101, 3))},
    ):
        file.write_text(json.dumps(figures))
        kept = benches.keep(growth, file, "load 9", "by hand", tmp_path).figures
    assert kept["memory"] == a_curve((1, 5, 5))
    assert [p["seen"] for p in kept["start"]["points"]] == [1, 101, 10_000]
    assert kept["start"]["worse_than_linear"]


def test_what_is_run_writes_json_to_a_file() -> None:
    for bench in BENCHES:
        module = ROOT / "bench" / bench.name
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        assert re.search(r'"--json",[^)]*type=Path', file.read_text(), re.DOTALL), bench.name


def test_the_results_are_json_that_a_diff_shows_line_by_line() -> None:
    for file in results.DIRECTORY.glob("*.json"):
        text = json.dumps(json.loads(file.read_text()), indent=1, ensure_ascii=False)
        assert file.read_text() == f"{text}\n"
