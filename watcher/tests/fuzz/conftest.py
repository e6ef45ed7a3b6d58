"""How long the fuzz tests go on, and from where.

FUZZ_SECONDS is for each file of tests, which may run beside each other; 20 unless said. FUZZ_SEED
is the number of the first round; one that fails says which it was.
"""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("FUZZ_SECONDS", "20")
os.environ.setdefault("FUZZ_SEED", "0")


def pytest_report_header(config: pytest.Config) -> str:
    return "fuzz: FUZZ_SECONDS={FUZZ_SECONDS} FUZZ_SEED={FUZZ_SEED}".format_map(os.environ)
