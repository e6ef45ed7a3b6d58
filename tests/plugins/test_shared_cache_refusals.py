"""A cache that replicas cannot share is refused by name, with the fix."""

import pytest

from tests.plugins.plugin_files import load

replicas = load("filter", "replicas")


def refuse(
    gigabytes: float = 8,
    keeper: str = "gpu1",
    *,
    is_replica: bool = True,
    memory: dict[str, float] | None = None,
) -> list[str]:
    """Return what is refused of gpu1, one of two."""
    found: list[str] = replicas.shared_cache_refusals(
        "gpu1", gigabytes, keeper, ["gpu1", "gpu2"], is_replica=is_replica, memory=memory or {}
    )
    return found


def test_one_that_fits_passes() -> None:
    assert refuse() == []
    assert refuse(memory={"has": 40, "needs": 30}) == []


def test_it_need_not_fit_where_it_is_not() -> None:
    assert refuse(keeper="gpu2", memory={"has": 31, "needs": 30}) == []


@pytest.mark.parametrize(
    ("refusals", "words"),
    [
        (refuse(is_replica=False), "gpu1 is no replica. Set infbox_replicas to true"),
        (refuse(keeper="gpu9"), "gpu9, which is none of the replicas. Give one of gpu1 and gpu2."),
        (refuse(gigabytes=-1), "infbox_shared_cache_gb is -1. Give 0.1 or more, or 0."),
        (refuse(memory={"has": 39, "needs": 30}), "gpu1 has 39.0 GB of memory, and its preset and"),
    ],
)
def test_what_cannot_be_is_refused(refusals: list[str], words: str) -> None:
    assert len(refusals) == 1
    assert words in refusals[0]
