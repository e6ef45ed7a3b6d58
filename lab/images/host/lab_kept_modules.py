"""Keep what Ansible's modules compile to, where this host was given a folder for it.

Each run of a module brings the sources that it imports in an archive and compiles them anew: half
of what it computes. A lab host that has `FOLDER` looks there first. Code is kept by the sources'
content, so that what runs is what was sent.

Every start of the host's own Python imports this: it must be quick and never fail.
"""

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType

FOLDER = "/run/lab-modules"
# Another Python compiles to something else.
KEY = int.from_bytes(sys.version.encode()[:8], "big")


def keep(file: str, code: CodeType) -> None:
    """Write code to a file, whole or not at all; whoever may not write there does without."""
    part = f"{file}.{os.uname().nodename}-{os.getpid()}"
    try:
        with open(part, "wb") as new:
            new.write(marshal.dumps(code))
        os.replace(part, file)
    except OSError:
        pass


def install(folder: str) -> None:
    """Have what is imported from archives looked up in a folder, and kept there.

    Args:
        folder: that several hosts may share.
    """
    compile_source = zipimport._compile_source  # type: ignore[attr-defined]

    def kept(path: str, source: bytes) -> CodeType:
        # The archive itself lies in another folder each time.
        name = path.rpartition(".zip/")[2].encode()
        digest = _imp.source_hash(KEY, name + b"\0" + bytes(source)).hex()
        file = f"{folder}/{digest}-{len(source)}"
        code: CodeType
        try:
            with open(file, "rb") as found:
                code = marshal.loads(found.read())
        except (OSError, EOFError, ValueError, TypeError):
            code = compile_source(path, source)
            keep(file, code)
        return code

    zipimport._compile_source = kept  # type: ignore[attr-defined]


# Another Python may compile by another function: then nothing is kept.
if os.path.isdir(FOLDER) and hasattr(zipimport, "_compile_source"):
    install(FOLDER)
