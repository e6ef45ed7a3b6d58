"""What the tests that need a real Valkey share."""

from collections.abc import Iterator

import pytest

from tests.valkey.server import Valkey


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey with a certificate, not started; removed after the tests of a file."""
    valkey = Valkey(tmp_path_factory.mktemp("tls"))
    yield valkey
    valkey.remove()
