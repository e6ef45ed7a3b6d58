"""The deployed host that faults are made on: the same as that of the system's tests."""

from tests.system.conftest import second_run, site

__all__ = ["second_run", "site"]
