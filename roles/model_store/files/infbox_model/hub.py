"""Downloads a model: each file is compared with the hub's own word, and resumed where it was cut.

The hub's client tells what a model is, reads the token and makes the requests. The loop around them
is ours, since the client's own throws a file's beginning away when its process ends, does not try
again after most errors of a server, and has no end to a wait that a server asks for.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    build_hf_headers,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
)

from infbox_model.files import (
    DamagedError,
    File,
    ModelError,
    check,
    require_model,
    sha256,
)
from infbox_model.progress import Progress, amount

PARTIAL = ".partial"
# Answers that another try may better: too slow, a file that is shorter for the moment, too many
# requests, and troubles of the server itself.
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
PARTIAL_CONTENT = 206
PIN = "Pin the commit that the hub shows under 'Files and versions'."
# Seconds without a byte after which a connection counts as broken.
READ_TIMEOUT = 30
# Seconds that a server may ask to wait.
LONGEST_WAIT_ASKED = 900

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """What to download, and how hard to try.

    Attributes:
        endpoint: address of the hub.
        repository: the model's name there.
        revision: a commit.
        ignore: patterns of files that are not wanted.
        workers: files that are downloaded at once.
        tries: how often in a row nothing may come before the run gives up.
        first_wait: seconds before the second try; each further wait is twice as long.
        longest_wait: seconds that a wait grows to.
    """

    endpoint: str
    repository: str
    revision: str
    ignore: tuple[str, ...] = ()
    workers: int = 8
    tries: int = 12
    first_wait: float = 1
    longest_wait: float = 60


class CutError(Exception):
    """An answer ended before its time."""


class StoppedError(Exception):
    """Another file failed, so that this one is of no use."""


def network_errors() -> type[Exception]:
    """Return the base of all errors of the network, which the client's version decides."""
    transport = sys.modules[type(get_session()).__module__.partition(".")[0]]
    errors: type[Exception] = transport.HTTPError
    return errors


class Download:
    """Downloads one model to a staging folder."""

    def __init__(self, source: Source, staging: Path, progress_path: Path) -> None:
        """Take what to download, where to, and where to write how far it is."""
        self._source = source
        self._staging = staging
        self._progress_path = progress_path
        self._progress = Progress(progress_path, 0)
        self._stop = threading.Event()
        self._passing = (HfHubHTTPError, network_errors(), CutError)

    def run(self) -> list[File]:
        """Download.

        Returns:
            The model's files, as verified.

        Raises:
            ModelError: the hub refuses, the disk is too small, or something else came.
        """
        files = self._ask()
        require_model(files)
        here = sum(min(self._here(file), file.size) for file in files)
        total = sum(file.size for file in files)
        self._require_space(total - here)
        self._progress = Progress(self._progress_path, total, here)
        with self._progress:
            return self._all(files)

    def _ask(self) -> list[File]:
        """Return the files that the hub says the model has.

        Raises:
            ModelError: there is no such model or commit, or it may not be read.
        """
        source = self._source
        api = HfApi(endpoint=source.endpoint)
        info = self._patiently(
            lambda: api.model_info(
                source.repository,
                revision=source.revision,
                files_metadata=True,
                timeout=READ_TIMEOUT,
            ),
            lambda: 0,
        )
        if info.sha != source.revision:
            raise ModelError(
                f"{source.repository} has the commit {info.sha} at {source.revision}: the revision"
                f" moved. {PIN}"
            )
        wanted = filter_repo_objects(
            info.siblings or [],
            ignore_patterns=list(source.ignore),
            key=lambda each: each.rfilename,
        )
        return [self._file(each) for each in wanted]

    def _file(self, sibling: Any) -> File:
        """Return a file as the hub tells it.

        Raises:
            ModelError: it tells no hash, so nothing could be verified.
        """
        if sibling.size is None or not (sibling.lfs or sibling.blob_id):
            raise ModelError(
                f"{self._source.endpoint} tells no hash of {sibling.rfilename}, so nothing can be"
                " verified. Use another mirror, or copy the model from a host that has it."
            )
        if sibling.lfs:
            return File(sibling.rfilename, sibling.size, sha256=sibling.lfs.sha256)
        return File(sibling.rfilename, sibling.size, blob=sibling.blob_id)

    def _here(self, file: File) -> int:
        """Return how many bytes of a file an earlier run left."""
        for path in (self._staging / file.path, self._partial(file)):
            if path.is_file():
                return path.stat().st_size
        return 0

    def _partial(self, file: File) -> Path:
        return self._staging / (file.path + PARTIAL)

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._staging).free
        if needed > free:
            raise ModelError(
                f"{self._source.repository} needs {amount(needed)} more and the disk of"
                f" {self._staging.parent} has {amount(free)} free. Make room there and run again."
            )

    def _all(self, files: list[File]) -> list[File]:
        """Download all files, several at once."""
        # A small one alone shows whether the token opens the files, before anything large begins.
        # Of the others the largest come first, so that none is left alone at the end.
        first, *others = sorted(files, key=lambda file: (file.path != "config.json", -file.size))
        done = [self._one(first)]
        with ThreadPoolExecutor(self._source.workers) as pool:
            running = [pool.submit(self._one, file) for file in others]
            try:
                done += [each.result() for each in as_completed(running)]
            except BaseException:
                self._stop.set()
                raise
        return sorted(done, key=lambda file: file.path)

    def _one(self, file: File) -> File:
        """Have one file, whole and verified.

        Its own name is given to it only then, so that a later run need not read it again.
        """
        place, partial = self._staging / file.path, self._partial(file)
        if place.is_file() and place.stat().st_size == file.size:
            return replace(file, sha256=file.sha256 or sha256(place))
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._patiently(lambda: self._stream(file, partial), lambda: self._here(file))
            partial.touch()
            verified = check(partial, file)
            with partial.open("rb") as written:
                os.fsync(written.fileno())
        except DamagedError as error:
            partial.unlink()
            raise ModelError(
                f"{file.path} is not what the hub says: {error}. It was removed; run"
                " again, and it comes anew. If it comes like this again, so it is at"
                f" {self._source.endpoint}."
            ) from None
        except OSError as error:
            raise self._disk_error(file, error) from error
        partial.replace(place)
        return verified

    def _disk_error(self, file: File, error: OSError) -> ModelError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = amount(shutil.disk_usage(self._staging).free)
            return ModelError(
                f"The disk of {self._staging.parent} is full at {file.path}: {error.strerror},"
                f" {free} free. Make room there and run again; what came is kept."
            )
        return ModelError(
            f"{file.path} cannot be written: {error}. Look at the disk and run again."
        )

    def _stream(self, file: File, partial: Path) -> None:
        """Ask for what is missing of a file and append it.

        Raises:
            CutError: the answer ended too early.
            DamagedError: it went on too long.
        """
        start = partial.stat().st_size if partial.exists() else 0
        if start >= file.size:
            return
        url = hf_hub_url(
            self._source.repository,
            file.path,
            revision=self._source.revision,
            endpoint=self._source.endpoint,
        )
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        # The token stays at the hub: the transport leaves it out where an answer leads elsewhere.
        with get_session().stream(
            "GET", url, headers=headers, timeout=READ_TIMEOUT, follow_redirects=True
        ) as answer:
            hf_raise_for_status(answer)
            self._require_commit(answer)
            if start and answer.status_code != PARTIAL_CONTENT:
                self._progress.add(-start)
                start = 0
            with partial.open("ab" if start else "wb", buffering=0) as written:
                # As they come: what is gathered to larger pieces is lost when the answer breaks.
                for chunk in answer.iter_bytes():
                    if self._stop.is_set():
                        raise StoppedError
                    written.write(chunk)
                    self._progress.add(len(chunk))
                    start += len(chunk)
                    if start > file.size:
                        raise DamagedError(f"{file.path} has more than {file.size} bytes")
        if start < file.size:
            raise CutError(f"it ends after {start} of {file.size} bytes")

    def _require_commit(self, answer: Any) -> None:
        told = [each.headers.get("X-Repo-Commit") for each in (*answer.history, answer)]
        for commit in told:
            if commit and commit != self._source.revision:
                raise ModelError(
                    f"{self._source.endpoint} answers with commit {commit} where"
                    f" {self._source.revision} was asked for: the revision moved. {PIN}"
                )

    def _patiently(self, attempt: Callable[[], T], so_far: Callable[[], int]) -> T:
        """Try until it works, waiting longer each time, as long as something comes now and then.

        Args:
            attempt: what to try.
            so_far: how many bytes there are; as long as they get more, trying never ends.

        Returns:
            What the attempt returned.

        Raises:
            ModelError: it was refused, or nothing came for too many tries.
        """
        tries, most = 0, so_far()
        while True:
            if self._stop.is_set():
                raise StoppedError
            try:
                result = attempt()
            except self._passing as error:
                if not self._may_pass(error):
                    raise self._refusal(error) from None
                now = so_far()
                tries, most = (0, now) if now > most else (tries + 1, most)
                if tries >= self._source.tries:
                    raise self._broken(error) from None
                self._wait(error, tries)
            else:
                self._progress.trouble = ""
                return result

    def _may_pass(self, error: Exception) -> bool:
        status = status_of(error)
        return status is None or status in PASSING

    def _wait(self, error: Exception, tries: int) -> None:
        """Wait before the next try, as long as the hub asks for, else longer each time.

        Raises:
            ModelError: the hub asks for longer than anybody would sit before a run.
        """
        source = self._source
        wait = min(source.first_wait * 2 ** max(tries - 1, 0), source.longest_wait)
        # Not all at the same moment again.
        wait *= random.uniform(0.75, 1.25)  # noqa: S311
        asked = wait_asked(error)
        if asked is not None and asked > LONGEST_WAIT_ASKED:
            raise ModelError(
                f"{source.endpoint} asks to wait {asked} s. Run again after that; what came is"
                " kept."
            )
        wait = max(wait, asked or 0)
        self._progress.trouble = f"{brief(error)}, next try in {wait:.0f} s"
        self._stop.wait(wait)

    def _broken(self, error: Exception) -> ModelError:
        source = self._source
        return ModelError(
            f"The download of {source.repository} from {source.endpoint} broke off: {brief(error)},"
            f" {source.tries} times in a row. What came is kept: run again. Else set a mirror or a"
            " proxy, or give a model that is there already."
        )

    def _refusal(self, error: Exception) -> ModelError:
        """Return what a refusal means and what to do about it."""
        source = self._source
        if isinstance(error, GatedRepoError):
            return ModelError(
                f"{source.repository} is open only to those who accepted its terms. Accept them on"
                f" {source.endpoint}/{source.repository} and give a token of that account."
            )
        if isinstance(error, RevisionNotFoundError):
            return ModelError(f"{source.repository} has no commit {source.revision}. {PIN}")
        if isinstance(error, RepositoryNotFoundError):
            return ModelError(
                f"{source.endpoint} knows no model {source.repository}, or shows it to nobody"
                " without the right token. Correct the name, or give a token that may read it."
            )
        if status_of(error) in (401, 403):
            return ModelError(
                f"{source.endpoint} does not accept the token for {source.repository}: it is"
                " wrong, was revoked, or lacks the right. Give a valid one and run again; what came"
                " is kept."
            )
        return ModelError(f"{source.endpoint} does not give {source.repository}: {brief(error)}.")


def status_of(error: Exception) -> int | None:
    """Return the status of the answer that an error is about, if there was one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def wait_asked(error: Exception) -> int | None:
    """Return how many seconds an answer asks to wait, if it does."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    if str(headers.get("Retry-After", "")).isdigit():
        return int(headers["Retry-After"])
    # The hub's own form, as in `"api";r=0;t=55`.
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", str(headers.get("RateLimit", "")))
    return int(limit.group(1)) if limit else None


def brief(error: Exception) -> str:
    """Return an error in a few words."""
    if status := status_of(error):
        return f"it answers {status}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
