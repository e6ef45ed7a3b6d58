"""What a host records of keys: those with labels, and the digests of all that ended.

Replicas compare their records. The one that was changed last has the keys that are valid, and a
key that ended on any of them is valid on none: one that could not be reached when a key was
disabled does not bring it back.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.auth import labels
from infbox.auth.labels import RECORD, Labelled
from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

MOST_ENDED = 10_000
"""Keys that are remembered after they ended; the oldest are forgotten first."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Record(NamedTuple):
    """What is recorded.

    Attributes:
        labelled: the keys with labels.
        revision: number of changes of keys; that of a replica which missed one is lower.
        ended: the digests of keys that ended, with the day, in UTC, as YYYY-MM-DD.
    """

    labelled: Labelled
    revision: int
    ended: dict[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to record."""
        return not (any(self.labelled.values()) or self.revision or self.ended)

    def with_ended(self, ended: Iterable[str]) -> Record:
        """Return the record with more keys that ended; those that have a label are disabled."""
        today = labels.today().isoformat()
        known = {**self.ended, **{key: today for key in ended if key not in self.ended}}
        kept = sorted(known.items(), key=lambda each: each[::-1])[-MOST_ENDED:]
        labelled = {
            user: {
                label: key._replace(disabled=True) if key.sha256 in known else key
                for label, key in keys.items()
            }
            for user, keys in self.labelled.items()
        }
        return Record(labelled, self.revision, dict(kept))

    def without(self, valid: Container[str]) -> Record:
        """Return the record without keys that ended and are valid again."""
        ended = {key: day for key, day in self.ended.items() if key not in valid}
        return self._replace(ended=ended)


def file_in(directory: Path) -> Path:
    """Return where the record is.

    Args:
        directory: of the keys with labels.
    """
    return directory / RECORD


def read(directory: Path) -> Record:
    """Return what is recorded in a directory; nothing where there is no record.

    Raises:
        InputError: the record cannot be read, or is damaged.
    """
    file = file_in(directory)
    try:
        return parsed(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Record({}, 0, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}): restore it from a backup, or remove "
            "it, which ends all keys with a label"
        ) from error


def parsed(content: Any) -> Record:
    """Return a record from what JSON held; releases that knew no revisions have none.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is something else.
        InputError: a day is none.
    """
    labelled = {user: labels.keys_from(keys, user) for user, keys in content["users"].items()}
    revision, ended = content.get("revision", 0), dict(content.get("ended", {}))
    if not isinstance(revision, int) or revision < 0:
        raise ValueError("no revision")
    for digest, day in ended.items():
        if not _DIGEST.fullmatch(digest):
            raise ValueError("no digest")
        labels.checked_day(day, "ended")
    return Record(labelled, revision, ended)


def as_json(record: Record) -> str:
    """Return what the file holds, without users that have no key with a label."""
    users = {
        user: labels.as_content(keys) for user, keys in sorted(record.labelled.items()) if keys
    }
    told: Mapping[str, Any] = {"revision": record.revision, "ended": record.ended}
    content = {"users": users, **{name: value for name, value in told.items() if value}}
    return json.dumps(content, indent=1) + "\n"
