"""What stays out of every prompt, whatever git says."""

from __future__ import annotations

import codecs
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_hexdigest

from infbox.config import MAX_FILE_BYTES
from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infbox.tree.secrets import Finder

SECRETS_PACKAGE = Path(__file__).with_name("secrets")
"""What looks for secrets. It is imported with the first file that is read: a restart reads none."""

IGNORE_FILE = ".infboxignore"
MAX_PATTERNS = 500
MAX_PATTERN_LENGTH = 1000
# No line that a person wrote is as long: the longest in the trees looked at has 2,700 bytes.
MAX_LINE_BYTES = 4096
# The measure that GitHub takes for a minified file.
MAX_MEAN_LINE_BYTES = 110
# A license often stands above the line that says that a file is generated.
HEAD_BYTES = 2048


def as_utf8(data: bytes) -> bytes:
    """Return a file's bytes in UTF-8 where they are UTF-16 with a byte order mark, else as they
    are.

    Args:
        data: the whole file.
    """
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data
    try:
        return data.decode("utf-16").encode()
    except UnicodeError:  # something else that begins with the same two bytes
        return data


class Names:
    """Names of files, lower-case: whole ones, beginnings and ends. Sets and tuples, since one
    expression for all takes longer to compile than a whole start may."""

    def __init__(
        self,
        whole: Iterable[str] = (),
        starts: tuple[str, ...] = (),
        ends: tuple[str, ...] = (),
    ) -> None:
        self.whole = frozenset(whole)
        self.starts = starts
        self.ends = ends

    def match(self, name: str) -> str | None:
        """Return the entry that a lower-case name falls under, with ``*`` for what is free."""
        if name in self.whole:
            return name
        if name.startswith(self.starts):
            return next(f"{start}*" for start in self.starts if name.startswith(start))
        if name.endswith(self.ends):
            return next(f"*{end}" for end in self.ends if name.endswith(end))
        return None


# .env.example and its like stay out with the rest: many a key was put into the wrong of the two
# files, and what is lost is a few names that the code holds as well.
ENVIRONMENTS = Names(starts=(".env",))
# credentials.py and secrets.go are about secrets and hold none, as a rule. Programs and prose are
# judged by their content, whatever their name; data by both.
ABOUT_SECRETS = (
    *(".py", ".pyi", ".go", ".rs", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".tsx", ".vue"),
    *(".svelte", ".java", ".kt", ".kts", ".scala", ".groovy", ".c", ".h", ".cc", ".cpp", ".cxx"),
    *(".hh", ".hpp", ".cs", ".fs", ".vb", ".swift", ".m", ".mm", ".rb", ".php", ".pl", ".pm"),
    *(".lua", ".ex", ".exs", ".erl", ".hs", ".ml", ".clj", ".dart", ".r", ".jl", ".zig", ".nim"),
    *(".sh", ".bash", ".zsh", ".fish", ".ps1", ".sql", ".proto", ".graphql", ".tf", ".bzl"),
    *(".css", ".scss", ".less", ".html", ".md", ".mdx", ".rst", ".adoc", ".j2", ".tmpl"),
)
SECRETS = Names(
    whole=(
        (
            *(".netrc", "_netrc", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf"),
            *(".htpasswd", "htpasswd", ".htdigest", ".smbcredentials", ".fetchmailrc", ".msmtprc"),
            *(".npmrc", ".pypirc", ".git-credentials", ".curlrc", ".wgetrc", ".s3cfg", ".boto"),
            *(".dockercfg", ".dockerconfigjson", ".databrickscfg", ".terraformrc", "terraform.rc"),
            *(".vault-token", "rclone.conf", "local.settings.json", "credentials"),
            *("credentials.json", "credentials.toml", "credentials.csv", "credentials.ini"),
            *("credentials.yml", "credentials.yaml", "credentials.db", "credentials.tfrc.json"),
            *("application_default_credentials.json", "accesstokens.json", "azureprofile.json"),
            *("secrets.json", "secrets.yml", "secrets.yaml", "secrets.toml", "secrets.ini"),
            *("rootkey.csv", "sftp-config.json", "sftp.json", ".ftpconfig", "cookies.txt"),
        )
    ),
    starts=(
        *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_xmss", "kubeconfig", ".vault_pass"),
        *(".vault-pass", "vault_pass", "vault-pass", "msal_token_cache", "secring."),
        *("service_principal_entries", "ssh_host_"),
    ),
    ends=(
        *(".pem", ".key", ".p12", ".pfx", ".pkcs12", ".p8", ".pk8", ".ppk", ".pvk", ".snk"),
        *(".jks", ".jceks", ".bks", ".keystore", ".keychain", ".kdb", ".kdbx", ".agekey", ".age"),
        *(".gpg", ".ovpn", ".env", ".secret", ".secrets", ".kubeconfig", ".tfstate"),
        *(".tfvars", ".tfvars.json", "accesskeys.csv", ".mobileprovision", ".har"),
        *(".tfstate.backup", "_history"),
    ),
)
# Names of key files that a cloud's console makes; the rest of such a name is the project's own.
SECRET_WORDS_IN_JSON = (
    *("client_secret", "service-account", "service_account", "firebase-adminsdk"),
)
SECRET_WORDS = (".env.", ".tfstate.")
SECRET_DIRECTORIES = frozenset(
    {".ssh", ".gnupg", ".aws", ".gcloud", ".kube", ".password-store", ".secrets"}
)
# .docker/ and .azure/ are also where a repository keeps its own Dockerfiles and pipelines.
SECRET_PATHS = (".docker/config.json", "gh/hosts.yml", ".m2/settings.xml", ".composer/auth.json")
GENERATED = Names(
    whole=(
        (
            *("package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml"),
            *("bun.lock", "bun.lockb", "deno.lock", "cargo.lock", "poetry.lock", "pipfile.lock"),
            *("uv.lock", "pdm.lock", "pixi.lock", "conda-lock.yml", "composer.lock"),
            *("gemfile.lock", "podfile.lock", "pubspec.lock", "mix.lock", "rebar.lock"),
            *("flake.lock", "go.sum", "go.work.sum", "packages.lock.json", "paket.lock"),
            *("gradle.lockfile", ".terraform.lock.hcl", "cartfile.resolved", "package.resolved"),
            *("brewfile.lock.json", "conan.lock", "renv.lock", "shard.lock", "stack.yaml.lock"),
            *("cabal.project.freeze", "module.bazel.lock", "devbox.lock", "chart.lock"),
            *("lex.yy.c",),
        )
    ),
    starts=("zz_generated.",),
    ends=(
        *(".min.js", ".min.mjs", ".min.cjs", ".min.css", ".js.map", ".mjs.map", ".cjs.map"),
        *(".css.map", ".d.ts.map", ".pb.go", ".pb.cc", ".pb.h", ".pb.gw.go", "_pb2.py"),
        *("_pb2.pyi", "_pb2_grpc.py", "_pb.js", "_pb.d.ts", ".g.dart", ".freezed.dart", ".g.cs"),
        *(".tab.c", ".tab.h"),
    ),
)
# Most of these hold a NUL byte: the name spares reading them.
BINARIES = Names(
    ends=(
        *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".ico", ".webp", ".avif", ".tif", ".tiff"),
        *(".psd", ".pdf", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar"),
        *(".war", ".class", ".so", ".dylib", ".dll", ".exe", ".pyc", ".pyo", ".whl"),
        *(".wasm", ".woff", ".woff2", ".ttf", ".otf", ".eot", ".mp3", ".mp4", ".wav", ".ogg"),
        *(".flac", ".avi", ".mov", ".webm", ".npy", ".npz", ".pkl", ".parquet", ".onnx", ".pt"),
        *(".pth", ".safetensors", ".gguf", ".h5", ".sqlite", ".sqlite3", ".deb", ".rpm", ".iso"),
    )
)

# Whatever their heads say about generating: people write them, and say in them what not to edit.
HAND_WRITTEN = Names(
    whole=(
        *("build.gradle", "build.gradle.kts", "cargo.toml", "cmakelists.txt", "composer.json"),
        *("dockerfile", "gemfile", "gnumakefile", "go.mod", "justfile", "makefile", "meson.build"),
        *("package.json", "pom.xml", "pyproject.toml", "rakefile", "setup.cfg", "setup.py"),
        *("taskfile.yml", "tox.ini", ".editorconfig", ".gitattributes", ".gitignore"),
    ),
)
PROSE = (".md", ".mdx", ".markdown", ".rst", ".adoc", ".txt", ".tex", ".org")
# Of a long line, what is between two spaces on average: prose has 6, minified code and data more.
MAX_MEAN_WORD_BYTES = 16

# Everything but the control bytes that no text has; some terminals' and printers' are text too.
_TEXT = bytes({*range(256)} - {*range(32), 127} | {*b"\b\t\n\v\f\r\x1b"})
_PACKED = (".js", ".mjs", ".cjs", ".css")
# The comments a file begins with. Said further down, or in a text, it is said of another file.
# (Compiled when first used: a start that reads no file need not wait for it.)
_COMMENTS = rb"""(?sx)(?: [ \t]* (?:
        (?: \# | // | -- | ; | % | \.\. | <\? | \"\"\" ) [^\n]*
      | /\* .*? (?: \*/ [^\n]* | \Z )
      | <!-- .*? (?: --> [^\n]* | \Z )
    )? (?: \n | \Z ) )*"""
# With a plea to the reader: files that were made once and are kept by hand lack it.
_PLEA = rb"(?:do(?: not|n't) (?:hand-?)?(?:edit|modify|change)|editing it directly is not advised)"
_MADE = (
    rb"(?s)@generated(?![\w(])|<auto-?generated\b"
    rb"|generated\b.{0,300}?%b|%b.{0,300}?generated\b" % (_PLEA, _PLEA)
)


class Rules:
    """Our own filters: by name, by size, by content.

    Each method returns the rule that refuses, in words, or None.

    Args:
        ignored: lines of the workspace's own ignore file, in ``.gitignore`` syntax. They add to
            what is refused; they cannot bring back what another rule refuses.
        max_bytes: larger files are refused.
        control_tokens: texts that a model reads as commands. A file that holds one would end the
            message it stands in, so it is refused.

    Raises:
        InputError: a line of the ignore file is no pattern.
    """

    def __init__(
        self,
        ignored: Iterable[str] = (),
        max_bytes: int = MAX_FILE_BYTES,
        control_tokens: Iterable[str] = (),
    ) -> None:
        lines = [*ignored]
        self._ignored = _Ignores(lines) if lines else None
        self._max_bytes = max_bytes
        self._control_names = tuple(control_tokens)
        self._control_tokens = tuple(token.encode() for token in self._control_names)
        self._finder: Finder | None = None

    @cached_property
    def version(self) -> str:
        """Short text that differs when the verdict about any file may differ.

        The ignore file is not in it: a change of it leads to a look at everything anyway.
        """
        # The modules as they stand: a list of what counts would one day lack something.
        parts = [file.read_bytes() for file in _judging()]
        return xxh3_64_hexdigest(repr((parts, self._max_bytes, self._control_tokens)).encode())

    def by_name(self, path: str) -> str | None:
        """Judge a relative path, which stands in the pack as the content does."""
        for token in self._control_names:
            if token in path:
                return f"its name holds the model's control token {token}"
        secret = _secret_name(path.lower())
        if secret:
            return secret
        name = path.lower().rpartition("/")[2]
        if GENERATED.match(name):
            return "lock file, minified or generated by name"
        if BINARIES.match(name):
            return "binary by name"
        if self._ignored and self._ignored.match(path):
            return f"named in {IGNORE_FILE}"
        return None

    def by_size(self, size: int) -> str | None:
        """Judge a size in bytes."""
        return f"larger than {self._max_bytes} bytes" if size > self._max_bytes else None

    def by_content(self, data: bytes, path: str = "") -> str | None:
        """Judge a whole file; of its path only the name counts."""
        data = as_utf8(data)
        if _is_binary(data):
            return "binary: it holds bytes that no text has"
        for token in self._control_tokens:
            if token in data:
                return f"it holds the model's control token {token.decode()}"
        return _machine_made(data, path) or self._secret(data, path)

    def secret_in(self, data: bytes, path: str = "") -> str | None:
        """Judge a part of a file, as a difference shows it: by tokens and secrets alone."""
        if any(token in data for token in self._control_tokens):
            return "it holds a control token of the model"
        return self._secret(data, path)

    def _secret(self, data: bytes, path: str) -> str | None:
        if self._finder is None:
            from infbox.tree import secrets  # noqa: PLC0415  # see SECRETS_PACKAGE

            self._finder = secrets.Finder()
        found = self._finder.find(data, path)
        return f"secret by content: {found.kind}, line {found.line}" if found else None


def _judging() -> list[Path]:
    """Return the files that verdicts follow from."""
    package = SECRETS_PACKAGE
    return [Path(__file__), *sorted(package.glob("*.py")), *sorted(package.glob("*.toml"))]


class _Ignores:
    """The patterns of the workspace's own ignore file.

    Args:
        lines: of the file.

    Raises:
        InputError: a line is no pattern, or is too long, or there are too many.
    """

    def __init__(self, lines: list[str]) -> None:
        # Imported only where there is such a file: they take longer than all the rest here.
        import re2  # noqa: PLC0415
        from pathspec import GitIgnoreSpec  # noqa: PLC0415
        from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern  # noqa: PLC0415

        class Pattern(GitIgnoreSpecPattern):
            """One that is matched in time that grows with the path's length alone. Python's own
            expressions take ``*a*a*a*a*b`` for as many questions as there are ways to divide a
            path, and nothing else in the process goes on meanwhile."""

            def __init__(self, line: str) -> None:
                super().__init__(line)
                if self.regex is not None:
                    self.regex = re2.compile(self.regex.pattern, _re2_options(re2))

        patterns = [line for line in lines if line.strip() and not line.startswith("#")]
        if len(patterns) > MAX_PATTERNS:
            raise InputError(
                f"{IGNORE_FILE}: it may have {MAX_PATTERNS} patterns: name directories"
            )
        longest = max(map(len, patterns), default=0)
        if longest > MAX_PATTERN_LENGTH:
            raise InputError(
                f"{IGNORE_FILE}: a pattern may have {MAX_PATTERN_LENGTH} characters: shorten it"
            )
        try:
            self._spec = GitIgnoreSpec.from_lines(patterns, Pattern, backend="simple")
        except (ValueError, re.error, re2.error) as error:
            raise InputError(f"{IGNORE_FILE}: {error}: fix or remove the line") from error

    def match(self, path: str) -> bool:
        """Say whether a path is ignored. In names that are not UTF-8 any pattern's character is
        another than those that are not."""
        return bool(self._spec.match_file(path.encode(errors="replace").decode()))


def _re2_options(re2: Any) -> Any:
    options = re2.Options()
    options.log_errors = False  # they are raised
    return options


def _secret_name(path: str) -> str | None:
    directory, _, name = path.rpartition("/")
    secret = SECRET_DIRECTORIES.intersection(directory.split("/"))
    if secret:
        return f"secret by directory: {min(secret)}/"
    entry = ENVIRONMENTS.match(name)
    if not entry and not name.endswith(ABOUT_SECRETS):
        entry = SECRETS.match(name) or _odd_secret_name(path, name)
    return f"secret by name: {entry}" if entry else None


def _odd_secret_name(path: str, name: str) -> str | None:
    if name.startswith("id_") and "." not in name:
        return "id_*"  # a private key of ssh under a name of its owner's choice
    if name.endswith(".json"):
        for word in SECRET_WORDS_IN_JSON:
            if word in name:
                return f"*{word}*.json"
    for word in SECRET_WORDS:
        if word in name:
            return f"*{word}*"
    return next((end for end in SECRET_PATHS if f"/{path}".endswith(f"/{end}")), None)


def _is_binary(data: bytes) -> bool:
    # A hundredth: a test's data may hold a few of them.
    return b"\0" in data or len(data.translate(None, _TEXT)) * 100 > len(data)


def _machine_made(data: bytes, path: str) -> str | None:
    name = path.lower().rpartition("/")[2]
    is_prose = name.endswith(PROSE)
    if _has_long_line(data) and not (is_prose and _is_of_words(data)):
        return f"minified or data: a line has more than {MAX_LINE_BYTES} bytes"
    if name.endswith(_PACKED) and len(data) > HEAD_BYTES:
        mean = len(data) / (data.count(b"\n") + 1)
        if mean > MAX_MEAN_LINE_BYTES:
            return f"minified: its lines have {mean:.0f} bytes on average"
    if is_prose or HAND_WRITTEN.match(name):
        return None
    return "generated: its head says so" if _is_generated(data) else None


def _is_of_words(data: bytes) -> bool:
    """Say whether each long line is words with spaces between them."""
    long_lines = (line for line in data.split(b"\n") if len(line) > MAX_LINE_BYTES)
    return all(line.count(b" ") * MAX_MEAN_WORD_BYTES > len(line) for line in long_lines)


def _has_long_line(data: bytes) -> bool:
    # In steps of the limit, looking for the last line end in each: few steps for any file.
    start = 0
    while start + MAX_LINE_BYTES < len(data):
        end = data.rfind(b"\n", start, start + MAX_LINE_BYTES + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def _is_generated(data: bytes) -> bool:
    head = data[:HEAD_BYTES].lower()
    if b"generated" not in head:
        return False
    comments = re.match(_COMMENTS, head)
    return bool(comments and re.search(_MADE, comments[0]))
