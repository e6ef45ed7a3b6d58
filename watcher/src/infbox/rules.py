"""What stays out of every prompt, whatever git says."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IGNORE_FILE = ".infboxignore"
MAX_FILE_BYTES = 256 * 1024

SECRET_NAMES = (
    *(".env*", "*.env", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".htpasswd", ".npmrc"),
    *(".pypirc", ".git-credentials", ".dockercfg", ".vault-token", ".vault_pass*"),
    *("vault-password*", "vault_password*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks"),
    *("*.keystore", "*.kdbx", "*.ppk", "*.gpg", "*.ovpn", "*.secret", "*.secrets"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "kubeconfig*", "*.kubeconfig"),
    *("credentials", "credentials.json", "client_secret*.json", "*service-account*.json"),
    *("*service_account*.json", "application_default_credentials.json", "secrets.json"),
    *("secrets.yml", "secrets.yaml", "*.tfstate", "*.tfstate.*", "*.tfvars"),
)
SECRET_FOLDERS = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker"})
GENERATED_NAMES = (
    *("package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock"),
    *("cargo.lock", "poetry.lock", "pipfile.lock", "uv.lock", "pdm.lock", "composer.lock"),
    *("gemfile.lock", "podfile.lock", "pubspec.lock", "mix.lock", "flake.lock", "go.sum"),
    *("packages.lock.json", "gradle.lockfile", ".terraform.lock.hcl"),
    *("*.min.js", "*.min.mjs", "*.min.css", "*.js.map", "*.mjs.map", "*.css.map"),
)


class Rules:
    """Our own filters: by name, by size, by content.

    Each method returns the rule that refuses, in words, or None.

    Args:
        ignored: lines of the workspace's own ignore file, in ``.gitignore`` syntax. They add to
            what is refused; they cannot bring back what another rule refuses.
        max_bytes: larger files are refused.

    Raises:
        InputError: a line of the ignore file is no pattern.
    """

    def __init__(self, ignored: Iterable[str] = (), max_bytes: int = MAX_FILE_BYTES) -> None:
        # One expression over the lower-cased name: a pattern at a time costs more than git itself.
        self._names = re.compile("|".join(map(translate, (*SECRET_NAMES, *GENERATED_NAMES))))
        try:
            self._ignored = GitIgnoreSpec.from_lines(ignored)
        except ValueError as error:
            raise InputError(f"{IGNORE_FILE}: {error}: mend or remove the line") from error
        self._max_bytes = max_bytes

    def by_name(self, path: str) -> str | None:
        """Judge a relative path."""
        *folders, name = path.lower().split("/")
        secret = SECRET_FOLDERS.intersection(folders)
        if secret:
            return f"secret by folder: {min(secret)}/"
        if self._names.match(name):
            pattern = _first(SECRET_NAMES, name)
            return f"secret by name: {pattern}" if pattern else "lock file or minified by name"
        if len(self._ignored) and self._ignored.match_file(path):
            return f"named in {IGNORE_FILE}"
        return None

    def by_size(self, size: int) -> str | None:
        """Judge a size in bytes."""
        return f"larger than {self._max_bytes} bytes" if size > self._max_bytes else None

    def by_content(self, content: bytes) -> str | None:
        """Judge a whole file."""
        return "binary: it holds a NUL byte" if b"\0" in content else None


def _first(patterns: Sequence[str], name: str) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
