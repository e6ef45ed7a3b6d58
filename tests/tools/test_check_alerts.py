"""The check that alert rules can be read."""

import shutil
from pathlib import Path

import check_alerts
import promql
import pytest

BROKEN = {
    "up == 0": "up ==",
    "    rules:": "    rule:",
    "        expr:": "        exp:",
    "groups:": "groups: [",
}


def test_ours_can_be_read() -> None:
    assert check_alerts.check(check_alerts.DIRECTORY) == []


@pytest.mark.parametrize("right", BROKEN)
def test_a_broken_rule_is_named(tmp_path: Path, right: str) -> None:
    file = shutil.copy(check_alerts.DIRECTORY / "fleet.yml", tmp_path)
    text = Path(file).read_text().replace('up{job="fleet"} == 0', "up == 0")
    Path(file).write_text(text.replace(right, BROKEN[right]))
    (problem,) = check_alerts.check(tmp_path)
    assert problem.startswith("fleet.yml: ")


def test_metrics_are_found_at_every_depth() -> None:
    query = """
        histogram_quantile(0.9, sum by (host, le) (rate(a_bucket{host=~"$host"}[$__rate_interval])))
        / on (host) group_left () (-(b{c="d"}) > 0) or max_over_time(e[1h:1m]) or vector(0)
    """
    assert promql.metric_names(query) == {"a_bucket", "b", "e"}
