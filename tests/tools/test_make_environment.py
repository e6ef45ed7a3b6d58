import make_environment as made
import pytest

LISTING = """\
:env:.find-links='/srv/wheels'
global.cert='/etc/ca.crt'
global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'
global.find-links='/srv/older'
install.no-index='true'
"""
LOCK = """\
rich==15.0.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
uv==0.13.9 \\
    --hash=sha256:cc \\
    --hash=sha256:dd
uvloop==1.0 \\
    --hash=sha256:ee
"""


def test_uv_is_told_what_pip_is_told() -> None:
    settings = made.pip_settings(LISTING)
    assert settings["cert"] == "/etc/ca.crt"
    assert made.uv_options(settings) == [
        "--no-index",
        "--extra-index-url", "https://one.example/simple",
        "--extra-index-url", "https://two.example/simple",
        "--find-links", "/srv/wheels",
    ]  # fmt: skip


def test_uv_comes_from_the_lock_with_its_hashes_alone() -> None:
    lines = made.entry(LOCK, "uv").split()
    assert lines == ["uv==0.13.9", "\\", "--hash=sha256:cc", "\\", "--hash=sha256:dd"]


def test_a_lock_without_uv_is_refused_with_the_fix() -> None:
    with pytest.raises(SystemExit, match="uv is not in the lock: add it"):
        made.entry("rich==15.0.0\n", "uv")
