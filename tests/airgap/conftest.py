"""The host that everything is collected from: the same as that of the system's tests."""

from tests.system.conftest import site

__all__ = ["site"]
