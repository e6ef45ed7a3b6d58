"""How far the build of an image is, by its log; and the command that builds it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT, load_file

build = load_file(ROOT / "roles/images/files/infbox_build.py")

PULL = """#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 3.07kB done
#1 DONE 0.0s

#5 [base 1/4] FROM docker.io/library/debian:12@sha256:abc
#5 resolve docker.io/library/debian:12@sha256:abc done
#5 sha256:1234abcd 12.58MB / 48.48MB 1.2s
#5 sha256:1234abcd 24.12MB / 48.48MB 2.2s
"""
DEBIAN = (
    PULL
    + """#5 DONE 3.1s

#6 [base 2/4] RUN apt-get update  && apt-get install -y --no-install-recommends libgomp1
#6 0.350 Get:1 http://archive.example/debian bookworm InRelease [151 kB]
#6 1.150 Get:2 http://archive.example/debian bookworm/main amd64 Packages [8,793 kB]
"""
)
PIP = (
    DEBIAN
    + """#6 DONE 9.0s

#7 [cuda 2/5] COPY requirements-cuda.txt install_locked.sh /build/
#7 DONE 0.1s

#8 [cuda 3/5] RUN sh /build/install_locked.sh nvidia-
#8 2.1 Collecting nvidia-cublas==13.1 (from -r /dev/stdin (line 1))
#8 2.2   Downloading nvidia_cublas-13.1-py3-none-manylinux_2_27_x86_64.whl (542.9 MB)
#8 9.9 Installing collected packages: nvidia-cublas
#8 DONE 20.0s

#9 [cuda 4/5] RUN sh /build/install_locked.sh 'torch triton'
#9 1.1   Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (600.5 MB)
"""
)


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("", "2 min 5 s, between two steps"),
        (
            PULL,
            ("2 min 5 s, base image, 24.1 MB of 48.5 MB, step base 1/4:"
            " FROM docker.io/library/debian:12@sha256:abc"),
        ),
        (
            DEBIAN,
            ("2 min 5 s, 2 Debian packages, 8.9 MB, step base 2/4:"
            " RUN apt-get update  && apt-get install -y --no-install-recom..."),
        ),
        (
            PIP,
            ("2 min 5 s, 2 packages of the lock's 3, 1.1 GB, torch-2.13.0 (600.5 MB), step"
            " cuda 4/5: RUN sh /build/install_locked.sh 'torch triton'"),
        ),
        (
            PIP + "#9 8.0 Installing collected packages: torch\n",
            ("2 min 5 s, 2 packages of the lock's 3, 1.1 GB, installing them, step cuda 4/5:"
            " RUN sh /build/install_locked.sh 'torch triton'"),
        ),
        (
            PIP + "#9 DONE 30.1s\n#12 exporting to image\n#12 exporting layers\n",
            "2 min 5 s, exporting to image",
        ),
        (PIP + "#9 DONE 30.1s\n", "2 min 5 s, between two steps"),
        (PIP + "#9 DONE 30.1s\n#10 [cuda 5/5] RUN true\n#10 CACHED\n#99", ("2 min 5 s, between two"
         " steps")),
    ],
)  # fmt: skip
def test_a_line_says_what_step_how_long_and_how_much(log: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "requirements-cuda.txt").write_text(
        "torch==2.13.0 \\\n    --hash=x\na==1\nb[c]==2\n"
    )
    assert build.sentence(log, 125, tmp_path) == text


@pytest.mark.parametrize("log", ["#1", "#1 ", "#x y", "#7 Downloading a.whl (.,. MB)\n" * 2, "\0"])
def test_a_log_that_makes_no_sense_is_no_error(log: str, tmp_path: Path) -> None:
    assert build.sentence(log, 5, tmp_path)


def test_a_stage_without_a_name_has_steps_too(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("a==1\nb==2\n")
    log = (
        "#6 [2/3] COPY requirements.txt /\n#6 CACHED\n\n#7 [3/3] RUN install\n"
        "#7 0.054 Downloading a-1-py3-none-any.whl (1.5 MB)\n"
    )
    assert build.sentence(log, 5, tmp_path) == (
        "5 s, 1 package of the lock's 2, 1.5 MB, a-1 (1.5 MB), step 3/3: RUN install"
    )


def told(**other: Any) -> dict[str, Any]:
    return {
        "reference": "infbox/engine:1", "target": "cuda", "network": "host", "label": "l=1",
        "args": {"HTTPS_PROXY": "http://user:secret@proxy", "FLAG": True}, **other,
    }  # fmt: skip


def test_values_of_build_arguments_are_in_no_command_line(tmp_path: Path) -> None:
    line, environment = build.command(told(), tmp_path)
    assert "secret" not in json.dumps(line)
    assert {"--build-arg=HTTPS_PROXY", "--build-arg=FLAG", "--target=cuda"} <= set(line)
    assert environment["HTTPS_PROXY"] == "http://user:secret@proxy"
    assert environment["FLAG"] == "true"


def test_without_a_target_the_last_stage_is_built(tmp_path: Path) -> None:
    line, _ = build.command(told(target="", args={}), tmp_path)
    assert not [word for word in line if word.startswith(("--target", "--build-arg"))]
