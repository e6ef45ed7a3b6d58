"""Compile a ``libcuda.so.1`` that knows of no GPU, and list what wants it. It runs in the image.

A driver brings libcuda; without one nothing that was compiled for CUDA loads. The stub has the
functions that the engine's extensions and Triton's launcher want, and answers each with
CUDA_ERROR_NO_DEVICE.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = Path("/opt/engine/lib/python3.11/site-packages")
TRITON = PACKAGES / "triton/backends/nvidia/driver.c"
NO_DEVICE = 100
FUNCTION = re.compile(r"\bcu[A-Z]\w+")


def extensions() -> list[Path]:
    """Return the compiled extensions of vLLM and LMCache."""
    return sorted(path for name in ("vllm", "lmcache") for path in (PACKAGES / name).rglob("*.so"))


def wanted() -> set[str]:
    """Return the functions of libcuda that the extensions want."""
    listing = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", "--format=posix", *extensions()],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    symbols = {line.split()[0] for line in listing.splitlines() if " U" in line}
    return {symbol for symbol in symbols if FUNCTION.fullmatch(symbol)}


def wanted_by_triton() -> set[str]:
    """Return the functions of libcuda that Triton's launcher calls, by its source."""
    return set(re.findall(r"\b(cu[A-Z]\w+)\(", TRITON.read_text()))


def compile_stub(folder: Path) -> dict[str, Any]:
    """Write ``libcuda.so.1`` to `folder`.

    Returns:
        functions that the extensions want, and the extensions, below their packages' folder.
    """
    functions = wanted()
    source = folder / "libcuda.c"
    source.write_text(
        "".join(
            f"int {function}(void) {{ return {NO_DEVICE}; }}\n"
            for function in sorted(functions | wanted_by_triton())
        )
    )
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1",
         source], check=True
    )  # fmt: skip
    return {
        "functions": sorted(functions),
        "extensions": [str(path.relative_to(PACKAGES)) for path in extensions()],
    }


if __name__ == "__main__":
    print(json.dumps(compile_stub(Path(sys.argv[1]))))
