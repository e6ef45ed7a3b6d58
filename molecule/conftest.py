"""What the tests of all scenarios share."""

from collections.abc import Iterator

import pytest
from testinfra.host import Host

JOURNAL = "journalctl --no-pager --lines 40"


@pytest.fixture(autouse=True)
def show_journal(host: Host, request: pytest.FixtureRequest) -> Iterator[None]:
    """Show what the host said where a test has failed: by its module's `JOURNAL`, if it has one."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(host.run(getattr(request.module, "JOURNAL", JOURNAL)).stdout)
