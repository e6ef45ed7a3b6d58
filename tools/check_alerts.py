"""Check that the rules of Prometheus, files/alerts/*.yml, can be read.

Whether they fire when they should, promtool says in tests/monitoring; it comes with the lab.
"""

import sys
from pathlib import Path

import promql
import yaml

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "files" / "alerts"


def check(directory: Path) -> list[str]:
    """Return what is wrong with the rules in a directory, each by file and rule."""
    problems = []
    for file in sorted(directory.glob("*.yml")):
        try:
            groups = yaml.safe_load(file.read_text())["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
        except (yaml.YAMLError, TypeError, KeyError) as error:
            problems.append(f"{file.name}: no groups of rules: {' '.join(str(error).split())}")
            continue
        for rule in rules:
            name = rule.get("alert") or rule.get("record") or "a rule without a name"
            try:
                promql.metric_names(rule["expr"])
            except KeyError:
                problems.append(f"{file.name}: {name}: no expr.")
            except ValueError as error:
                problems.append(f"{file.name}: {name}: {error}")
    return problems


def main() -> int:
    """Print what is wrong; exit status 1 where something is."""
    problems = check(DIRECTORY)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
