"""The configuration that the watcher and the gateway share, and those of sign-in and remotes."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from infbox import grants, inputs, kinds
from infbox.errors import InputError, UnreadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_FILE_BYTES = 256 * 1024
"""Of a file that may be shown, where nothing else is set."""

_REQUIRED: Any = object()
_MAX_BODY_BYTES = 32 * 1024 * 1024
_REQUEST_QUEUE_TIMEOUT_SECONDS = 120
_REQUEST_QUEUE_LIMIT = 200
_CONVERSATIONS_MB = 512
_RESPONSES_MB = 64
_MAX_PORT = 65535
# Keys that have another name now, by their sections; for one release.
_RENAMED = {
    "gateway.hold_seconds": "request_queue_timeout_seconds",
    "gateway.hold_requests": "request_queue_limit",
    "folder": "directory",
}
_SCOPES = ["openid", "profile", "email"]
POLL_SECONDS = 5
_LOOK_SECONDS = 3.0  # at all workspaces, before they are followed

_EVERY_SECONDS = 60
_SALT_DIGITS = 32  # of a name of LMCache's files, which may have 255 characters
_DEPTH = 100
_OF_GROUPS = ("tokens_per_minute", "tokens_per_day")
_KEEP_FREE_MB = 2048

T = TypeVar("T")


class Listen(NamedTuple):
    """An address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Engine(NamedTuple):
    """Where vLLM answers.

    Attributes:
        url: its base address, without a path and without a slash at the end.
        model: the name it serves.
        tokenizer: the model's tokenizer.json; None to estimate tokens from bytes.
        max_model_len: the model's window, in tokens.
        lmcache: base address of LMCache's HTTP interface; None where there is none.
    """

    url: str
    model: str
    tokenizer: Path | None
    max_model_len: int
    lmcache: str | None = None


class Watcher(NamedTuple):
    """The watcher's own settings.

    Attributes:
        listen: for /status and /metrics.
        max_file_bytes: larger files stay out of every pack.
        poll_seconds: between looks at directories whose changes inotify cannot tell.
    """

    listen: Listen
    max_file_bytes: int
    poll_seconds: int = POLL_SECONDS


class SharedLimits(NamedTuple):
    """Where replicas count together what users use.

    Attributes:
        address: of a Valkey.
        certificates: directory of ``group.crt`` and ``group.key``, by which it is known, and which
            it wants to see.
    """

    address: Listen
    certificates: Path


class Gateway(NamedTuple):
    """The gateway's own settings.

    Attributes:
        listen: for the API.
        max_body_bytes: of a request; a larger one is answered 413.
        request_queue_timeout_seconds: that a request is queued while the engine does not respond;
            0 to refuse it at once.
        request_queue_limit: requests that are queued at most.
        traces: base address of a collector that takes OpenTelemetry's traces over HTTP; None to
            make none.
        conversations_mb: disk space for what is known of conversations and the packs that they
            began with; 0 to send each request with the present pack.
        responses_mb: memory for stored responses, which requests may go on from; 0 to store none.
        strip_volatile: whether blocks of system prompts that are known to change with each request,
            and to mean nothing to a model, are taken out.
        requires_user: whether a request must have a user, whom Caddy names once a key was seen.
        tools: whether agents may look at the workspaces' files by the tools at ``/mcp``.
        restricts_workspaces: whether a request must say which workspaces its user may use.
        audit: whether it is recorded who asked which workspace.
        retrieve: whether anything may be looked for that a question is about.
        retrieve_tokens: of what is found for a question that does not say how many, at most; 0 to
            look for nothing then.
        shared_limits: where replicas count together what users use; None to count here alone.
    """

    listen: Listen
    max_body_bytes: int
    request_queue_timeout_seconds: int = _REQUEST_QUEUE_TIMEOUT_SECONDS
    request_queue_limit: int = _REQUEST_QUEUE_LIMIT
    traces: str | None = None
    conversations_mb: int = _CONVERSATIONS_MB
    responses_mb: int = _RESPONSES_MB
    strip_volatile: bool = True
    requires_user: bool = False
    tools: bool = True
    restricts_workspaces: bool = False
    audit: bool = False
    retrieve: bool = True
    retrieve_tokens: int = 0
    shared_limits: SharedLimits | None = None


class Status(NamedTuple):
    """What the status page shows beside what the others' sections name.

    Attributes:
        preset: the name of the preset that is served; empty where there is none.
        keys: base address of the keys' service; None where there is none.
        caddy: base address at which Caddy answers without a key; None where there is none.
        dcgm: base address of DCGM's exporter; None where there is none.
        disks: directories; the file systems that they lie on are shown.
        sign_in: whether people sign in, and so can sign out.
        sign_in_asks: whether people who are signed in may ask on the page without a key.
        planned_kv_tokens: tokens of KV that the engine should hold by its plan; 0 for no plan.
        plan_note: what there is to say about the plan; empty for nothing.
    """

    preset: str = ""
    keys: str | None = None
    caddy: str | None = None
    dcgm: str | None = None
    disks: tuple[Path, ...] = ()
    sign_in: bool = False
    sign_in_asks: bool = False
    planned_kv_tokens: int = 0
    plan_note: str = ""


class Workspace(NamedTuple):
    """A source tree to watch.

    Attributes:
        name: of the workspace.
        path: of the tree.
        budget: of its pack, in tokens.
        model: the name of the model that its pack is warmed for; None for the engine's.
        base: the workspace that it is an overlay of, with whose pack its own begins; None for none.
    """

    name: str
    path: Path
    budget: int
    model: str | None = None
    base: str | None = None


class Replicas(NamedTuple):
    """Hosts that serve the same model and the same workspaces.

    Attributes:
        balancer: base address of what hands a request to one of them.
        host: the name of this one among them.
    """

    balancer: str
    host: str


class SignIn(NamedTuple):
    """How people sign in.

    Attributes:
        listen: where Caddy asks.
        origin: of the status page and of the sign-in, as a browser names it.
        consoles: further pages: their paths, with the origin of each.
        issuer: the provider, exactly as it calls itself.
        client_id: by which the provider knows us.
        scopes: that the provider is asked for.
        groups_claim: the claim that is compared with the groups.
        groups: whose members are let in.
        session_seconds: that a session lasts at most.
        idle_seconds: after which a session that is not used has ended.
        workspaces: patterns of the workspaces that is shown who is in none of the groups below.
        group_workspaces: of members of a group, by its name.
        group_limits: of members of a group, by its name; 0 is any number.
    """

    listen: Listen
    origin: str
    consoles: dict[str, str]
    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    groups_claim: str
    groups: frozenset[str]
    session_seconds: int
    idle_seconds: int
    workspaces: tuple[str, ...] = grants.ALL
    group_workspaces: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    group_limits: Mapping[str, Mapping[str, int]] = MappingProxyType({})


class Remote(NamedTuple):
    """A git remote that is followed.

    Attributes:
        name: of the workspace.
        url: of the repository, without a password.
        ref: a branch, a tag, or the full name of a ref; empty for the remote's default branch,
            whichever that is.
        every: seconds between polls.
        depth: commits of history to fetch: a new index learns from them what is edited often.
    """

    name: str
    url: str
    ref: str = ""
    every: int = _EVERY_SECONDS
    depth: int = _DEPTH


class Remotes(NamedTuple):
    """How git remotes are followed.

    Attributes:
        listen: for the forges' calls, /status and /metrics.
        directory: in which the work trees lie, by name.
        secrets: ``known_hosts``, and by name ``NAME/key``, ``NAME/token``, ``NAME/webhook``.
        keep_free: bytes of the disk that are left to others.
        remotes: in the order of the file.
    """

    listen: Listen
    directory: Path
    secrets: Path
    keep_free: int
    remotes: tuple[Remote, ...]


class Config(NamedTuple):
    """The whole file. Workspaces are in the order of the file; without replicas there are none."""

    state_dir: Path
    engine: Engine
    watcher: Watcher
    gateway: Gateway
    workspaces: tuple[Workspace, ...]
    status: Status = Status()
    replicas: Replicas | None = None
    weights: kinds.Weights = kinds.DEFAULTS

    def cache_salts(self, workspace: Workspace) -> tuple[str, str]:
        """Return the salt under which the engine keeps a workspace's KV, and the one under which it
        may have kept it before; the empty one is none.

        Where anybody may not use all workspaces, each has a salt of its own, so that no cached
        token and no time tells of another. Overlays have that of their base, whose KV they begin
        with. No client can say it: those of users are made by the gateway, of their names.
        """
        from hashlib import sha256  # noqa: PLC0415  # it loads OpenSSL, and a start needs none

        root = workspace.base or workspace.name
        own = sha256(f"workspace\0{root}".encode()).hexdigest()[:_SALT_DIGITS]
        return (own, "") if self.gateway.restricts_workspaces else ("", own)


def load(file: Path) -> Config:
    """Read the configuration.

    Args:
        file: YAML, as docs/architecture.md describes it.

    Raises:
        InputError: it cannot be read, or a value in it cannot be used.
    """
    return _load(file, _config)


def load_sign_in(file: Path) -> SignIn:
    """Read the configuration of the sign-in; arguments and errors as for ``load``."""
    return _load(file, _sign_in)


def load_remotes(file: Path) -> Remotes:
    """Read the configuration of the remotes; arguments and errors as for ``load``."""
    return _load(file, _remotes)


def _load(file: Path, read: Callable[[_Section], T]) -> T:
    import yaml  # noqa: PLC0415  # what else is in this module is used without it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), loader)  # noqa: S506  # both are safe
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}: give a file that can be read") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not valid YAML: {reason}") from error
    try:
        return read(_Section(content, ""))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def check_paths(config: Config) -> None:
    """Check that no workspace lies inside another, and that a directory of them is there.

    One that is missing beside others is waited for: what is not mounted takes nothing else away.

    Raises:
        InputError: naming a workspace that lies inside another.
        UnreadyError: naming one that is not there, where none is; it may still be mounted.
    """
    places, is_there = _looked_at([workspace.path for workspace in config.workspaces])
    by_place = {places[each.path]: each for each in reversed(config.workspaces)}
    for inner in config.workspaces:
        place = places[inner.path]
        for above in (place, *place.parents):
            outer = by_place.get(above, inner)
            if inner is not outer:
                raise InputError(
                    f"workspaces: {inner.name}: {inner.path} is inside the workspace "
                    f"{outer.name}: keep one of the two"
                )
    missing = [workspace for workspace in config.workspaces if not is_there[workspace.path]]
    if missing and len(missing) == len(config.workspaces):
        raise UnreadyError(
            f"workspaces: {missing[0].name}: {missing[0].path} is not a directory: "
            "make or mount it, or fix the path"
        )


def _looked_at(paths: Sequence[Path]) -> tuple[dict[Path, Path], dict[Path, bool]]:
    """Return where these directories lie, without links, and whether they are there. Those of a
    file system that gives no answer are taken at their word."""
    places, is_there = {path: path for path in paths}, dict.fromkeys(paths, True)

    def look() -> None:
        for path in paths:
            with contextlib.suppress(OSError):
                place, found = path.resolve(), path.is_dir()
                places[path], is_there[path] = place, found

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_LOOK_SECONDS)
    return places, is_there


def listen_at(value: str, name: str) -> Listen:
    """Return an address to listen on.

    Args:
        value: HOST:PORT.
        name: of the setting, for the message.

    Raises:
        InputError: it is something else.
    """
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise InputError(f"{name}: must be HOST:PORT, as 127.0.0.1:8011, not {value!r}")
    return Listen(host.strip("[]"), int(port))


class _Section:
    """A mapping of the file; its values are taken by name, and what is left over is refused."""

    def __init__(self, content: object, place: str) -> None:
        self._place = place
        if not isinstance(content, dict):
            raise InputError(f"{place or 'the file'}: must be a mapping of keys to values")
        self._content: dict[object, object] = dict(content)

    @property
    def is_empty(self) -> bool:
        return not self._content

    def keys(self) -> list[str]:
        return [str(key) for key in self._content]

    def take(self, key: str, kind: type[T], default: T = _REQUIRED) -> T:
        value = self._content.pop(key, None)
        if value is None:
            if default is _REQUIRED:
                self._refuse_renamed()
                raise InputError(f"{self.name(key)}: missing: add it")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{self.name(key)}: must be {_NOUNS[kind]}, not {value!r}")
        return value

    def positive(self, key: str, default: int = _REQUIRED) -> int:
        value = self.take(key, int, default)
        if value <= 0:
            raise InputError(f"{self.name(key)}: must be larger than 0, not {value}")
        return value

    def not_negative(self, key: str, default: int) -> int:
        value = self.take(key, int, default)
        if value < 0:
            raise InputError(f"{self.name(key)}: must be 0 or larger, not {value}")
        return value

    def path(self, key: str) -> Path:
        return _absolute(self.take(key, str), self.name(key))

    def paths(self, key: str) -> tuple[Path, ...]:
        return tuple(_absolute(value, self.name(key)) for value in self.take(key, list, []))

    def texts(self, key: str, default: list[str] = _REQUIRED) -> list[str]:
        values = self.take(key, list, default)
        if not values or not all(isinstance(value, str) and value for value in values):
            raise InputError(f"{self.name(key)}: must be a list of texts, and not empty")
        return values

    def safe_url(self, key: str) -> str:
        value = self.take(key, str)
        if not inputs.is_safe_url(value):
            raise InputError(f"{self.name(key)}: must be https://HOST, not {value!r}")
        return value

    def listen(self, default: str) -> Listen:
        return listen_at(self.take("listen", str, default), self.name("listen"))

    def address(self, key: str, default: str = _REQUIRED) -> str:
        value = self.take(key, str, default).rstrip("/")
        is_given = bool(value) or default is _REQUIRED
        if is_given and not inputs.is_service_url(value):
            raise InputError(f"{self.name(key)}: must be http://HOST:PORT, not {value!r}")
        return value

    def section(self, key: str, default: Any = _REQUIRED) -> _Section:
        return _Section(self.take(key, dict, default), self.name(key))

    def done(self) -> None:
        self._refuse_renamed()
        if self._content:
            unknown = ", ".join(sorted(self.name(str(key)) for key in self._content))
            raise InputError(f"{unknown}: unknown: remove it, or fix the spelling")

    def _refuse_renamed(self) -> None:
        for old, new in _RENAMED.items():
            if any(self.name(str(key)) == old for key in self._content):
                raise InputError(f"{old}: is now named {new}: rename it")

    def name(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _absolute(value: object, name: str) -> Path:
    path = Path(str(value))
    if not path.is_absolute():
        raise InputError(f"{name}: must be an absolute path, not {str(value)!r}")
    return path


_NOUNS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    dict: "a mapping",
    list: "a list",
    bool: "true or false",
}


def _config(top: _Section) -> Config:
    engine = _engine(top.section("engine"))
    config = Config(
        state_dir=top.path("state_dir"),
        engine=engine,
        watcher=_watcher(top.section("watcher", {})),
        gateway=_gateway(top.section("gateway", {})),
        workspaces=_workspaces(top.take("workspaces", list, []), engine.max_model_len),
        status=_status(top.section("status", {})),
        replicas=_replicas(top.section("replicas", {})),
        weights=_weights(top.section("weights", {})),
    )
    top.done()
    return config


def _engine(section: _Section) -> Engine:
    tokenizer = section.take("tokenizer", str, "")
    engine = Engine(
        url=section.address("url"),
        model=section.take("model", str),
        tokenizer=Path(tokenizer) if tokenizer else None,
        max_model_len=section.positive("max_model_len"),
        lmcache=section.address("lmcache", "") or None,
    )
    section.done()
    return engine


def _watcher(section: _Section) -> Watcher:
    watcher = Watcher(
        listen=section.listen("127.0.0.1:8011"),
        max_file_bytes=section.positive("max_file_bytes", MAX_FILE_BYTES),
        poll_seconds=section.positive("poll_seconds", POLL_SECONDS),
    )
    section.done()
    return watcher


def _gateway(section: _Section) -> Gateway:
    gateway = Gateway(
        listen=section.listen("127.0.0.1:8010"),
        max_body_bytes=section.positive("max_body_bytes", _MAX_BODY_BYTES),
        request_queue_timeout_seconds=section.not_negative(
            "request_queue_timeout_seconds", _REQUEST_QUEUE_TIMEOUT_SECONDS
        ),
        request_queue_limit=section.positive("request_queue_limit", _REQUEST_QUEUE_LIMIT),
        traces=section.address("traces", "") or None,
        conversations_mb=section.not_negative("conversations_mb", _CONVERSATIONS_MB),
        responses_mb=section.not_negative("responses_mb", _RESPONSES_MB),
        strip_volatile=section.take("strip_volatile", bool, True),
        requires_user=section.take("requires_user", bool, False),
        tools=section.take("tools", bool, True),
        restricts_workspaces=section.take("restricts_workspaces", bool, False),
        audit=section.take("audit", bool, False),
        retrieve=section.take("retrieve", bool, True),
        retrieve_tokens=section.not_negative("retrieve_tokens", 0),
        shared_limits=_shared_limits(section.section("shared_limits", {})),
    )
    section.done()
    return gateway


def _shared_limits(section: _Section) -> SharedLimits | None:
    if section.is_empty:
        return None
    address = listen_at(section.take("address", str), section.name("address"))
    limits = SharedLimits(address, section.path("certificates"))
    section.done()
    return limits


def _weights(section: _Section) -> kinds.Weights:
    changes = {key: section.take(key, dict, {}) for key in kinds.Weights._fields}
    section.done()
    return kinds.Weights(
        *(
            kinds.changed(
                getattr(kinds.DEFAULTS, key),
                {str(kind): weight for kind, weight in given.items()},
                f"{section.name(key)}.",
            )
            for key, given in changes.items()
        )
    )


def _replicas(section: _Section) -> Replicas | None:
    if section.is_empty:
        return None
    replicas = Replicas(section.address("balancer"), section.take("host", str))
    section.done()
    if not inputs.is_name(replicas.host):
        raise InputError(
            f"{section.name('host')}: {replicas.host!r}: use letters, digits, '.', '_', '-'"
        )
    return replicas


def _status(section: _Section) -> Status:
    status = Status(
        preset=section.take("preset", str, ""),
        keys=section.address("keys", "") or None,
        caddy=section.address("caddy", "") or None,
        dcgm=section.address("dcgm", "") or None,
        disks=section.paths("disks"),
        sign_in=section.take("sign_in", bool, False),
        sign_in_asks=section.take("sign_in_asks", bool, False),
        planned_kv_tokens=section.not_negative("planned_kv_tokens", 0),
        plan_note=section.take("plan_note", str, ""),
    )
    section.done()
    return status


def _sign_in(section: _Section) -> SignIn:
    consoles = section.take("consoles", dict, {})
    settings = SignIn(
        listen=section.listen("127.0.0.1:8013"),
        origin=section.address("origin"),
        consoles={str(path): str(origin) for path, origin in consoles.items()},
        issuer=section.safe_url("issuer"),
        client_id=section.take("client_id", str),
        scopes=tuple(section.texts("scopes", _SCOPES)),
        groups_claim=section.take("groups_claim", str, "groups"),
        groups=frozenset(section.texts("groups")),
        session_seconds=section.positive("session_hours", 12) * 3600,
        idle_seconds=section.positive("idle_minutes", 60) * 60,
        workspaces=grants.checked(section.take("workspaces", list, ["*"]), "the others"),
        group_workspaces={
            str(group): grants.checked(patterns, f"group_workspaces.{group}")
            for group, patterns in section.take("group_workspaces", dict, {}).items()
        },
        group_limits=_group_limits(section.section("group_limits", {})),
    )
    section.done()
    return settings


def _group_limits(section: _Section) -> dict[str, dict[str, int]]:
    found = {}
    for group in section.keys():  # noqa: SIM118  # no mapping
        limits = section.section(group)
        found[group] = {name: limits.not_negative(name, 0) for name in limits.keys()}  # noqa: SIM118
        if unknown := found[group].keys() - _OF_GROUPS:
            raise InputError(f"{limits.name(min(unknown))}: unknown: use {', '.join(_OF_GROUPS)}")
    return found


def _remotes(section: _Section) -> Remotes:
    settings = Remotes(
        listen=section.listen("127.0.0.1:8014"),
        directory=section.path("directory"),
        secrets=section.path("secrets"),
        keep_free=section.not_negative("keep_free_mb", _KEEP_FREE_MB) * 1_000_000,
        remotes=tuple(
            _remote(_Section(item, f"remotes[{number}]"))
            for number, item in enumerate(section.take("remotes", list))
        ),
    )
    section.done()
    names = [remote.name for remote in settings.remotes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"remotes: {name} is listed twice: rename one")
    return settings


def _remote(section: _Section) -> Remote:
    remote = Remote(
        name=section.take("name", str),
        url=section.take("url", str),
        ref=section.take("ref", str, ""),
        every=section.positive("every", _EVERY_SECONDS),
        depth=section.positive("depth", _DEPTH),
    )
    section.done()
    if not inputs.is_name(remote.name):
        raise InputError(
            f"{section.name('name')}: {remote.name!r}: use letters, digits, '.', '_', '-'"
        )
    if hint := inputs.git_url_hint(remote.url):
        raise InputError(f"{section.name('url')}: {hint}")
    if remote.ref and (hint := inputs.git_ref_hint(remote.ref)):
        raise InputError(f"{section.name('ref')}: {remote.ref!r}: {hint}")
    if remote.every < inputs.MIN_EVERY:
        raise InputError(
            f"{section.name('every')}: {remote.every}: give at least {inputs.MIN_EVERY} seconds"
        )
    return remote


def _workspaces(items: list[object], window: int) -> tuple[Workspace, ...]:
    workspaces: list[Workspace] = []
    for number, item in enumerate(items):
        section = _Section(item, f"workspaces[{number}]")
        workspace = Workspace(
            name=section.take("name", str),
            path=section.path("path"),
            budget=section.positive("budget"),
            model=section.take("model", str, "") or None,
            base=section.take("base", str, "") or None,
        )
        section.done()
        if not inputs.is_name(workspace.name):
            raise InputError(
                f"{section.name('name')}: {workspace.name!r}: use letters, digits, '.', '_', '-'"
            )
        if workspace.budget > window:
            raise InputError(
                f"{section.name('budget')}: {workspace.budget} tokens for {workspace.name} are "
                f"more than engine.max_model_len, {window}: lower it"
            )
        if any(other.name == workspace.name for other in workspaces):
            raise InputError(
                f"{section.name('name')}: {workspace.name} is listed twice: rename one"
            )
        workspaces.append(workspace)
    return tuple(_over_its_base(workspace, workspaces) for workspace in workspaces)


def _over_its_base(workspace: Workspace, workspaces: list[Workspace]) -> Workspace:
    """Return an overlay for its base's model; any other workspace as it is.

    Raises:
        InputError: its base cannot be one.
    """
    if workspace.base is None:
        return workspace
    name, base_name = workspace.name, workspace.base
    base = next((other for other in workspaces if other.name == base_name), None)
    if base is None:
        raise InputError(
            f"workspaces: {name}: base {base_name} is not a workspace: add it, or fix the name"
        )
    if base is workspace or base.base is not None:
        over = "itself" if base is workspace else f"an overlay, of {base.base}"
        raise InputError(
            f"workspaces: {name}: base {base_name} is {over}: name a workspace without a base"
        )
    if workspace.model not in (None, base.model):
        raise InputError(
            f"workspaces: {name}: model {workspace.model} is not that of its base {base_name}, "
            "and models share no cache: leave it out"
        )
    if workspace.budget <= base.budget:
        raise InputError(
            f"workspaces: {name}: budget {workspace.budget} leaves no space beside its base "
            f"{base_name}, which may have {base.budget}: give more, a quarter more as a rule"
        )
    return workspace._replace(model=base.model)
