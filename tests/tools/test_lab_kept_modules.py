"""What a lab host keeps of Ansible's modules, by Python's own import of archives."""

import marshal
import subprocess
import sys
import zipfile
from pathlib import Path

from lab.images import RECIPES

IMPORT = """
import sys
sys.path[:0] = sys.argv[1:3]
import lab_kept_modules
lab_kept_modules.install(sys.argv[3])
import sent
print(sent.SAID)
"""


def said(archive: Path, kept: Path) -> str:
    """Import a module from an archive as a lab host would, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, archive, RECIPES / "host", kept],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def send(folder: Path, source: str) -> Path:
    """Write an archive in a folder of its own, as each run of a module brings it."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "sent.zip", "w") as archive:
        archive.writestr("sent.py", source)
    return folder / "sent.zip"


def test_what_was_sent_before_is_not_compiled_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert said(send(tmp_path / "first", "SAID = 'one'"), kept) == "one"
    (file,) = kept.iterdir()
    # In the place of what was kept, so that the import tells where it was from.
    other = compile("SAID = 'kept'", "sent.py", "exec")
    file.write_bytes(marshal.dumps(other))
    assert said(send(tmp_path / "second", "SAID = 'one'"), kept) == "kept"


def test_another_source_of_the_same_name_and_length_is_what_runs(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert said(send(tmp_path / "first", "SAID = 'one'"), kept) == "one"
    assert said(send(tmp_path / "second", "SAID = 'two'"), kept) == "two"


def test_a_damaged_or_missing_folder_changes_nothing(tmp_path: Path) -> None:
    archive = send(tmp_path / "first", "SAID = 'one'")
    assert said(archive, tmp_path / "none") == "one"
    kept = tmp_path / "kept"
    kept.mkdir()
    assert said(archive, kept) == "one"
    (file,) = kept.iterdir()
    file.write_bytes(b"")
    assert said(archive, kept) == "one"
