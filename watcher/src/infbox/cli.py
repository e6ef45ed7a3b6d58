"""The commands infbox-watch, infbox-gateway, infbox-keys, infbox-signin and infbox-remotes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from infbox import __version__, log
from infbox.errors import InputError, UnreadyError
from infbox.runtime.command import exit_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from infbox.auth.keyring import Keyring
    from infbox.kinds import Weights
    from infbox.tree.files import Tree

# Each command imports what it needs: `run` is ready sooner than all of it would be imported.
# ruff: noqa: PLC0415

_CONFIG = Path("/etc/infbox/watcher.yml")
_DIGESTS = Path("/etc/infbox/keys/users.json")
_KEYS = Path("/etc/infbox/secrets/api-keys")
_PACK_WEIGHT, _RETRIEVAL_WEIGHT = "--pack-weight", "--retrieval-weight"
_CERTIFICATES = Path("/etc/infbox/lmcache/shared")


def watch(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox-watch``.

    Args:
        arguments: of the command line; those of the process when None.

    Returns:
        The exit status: 2 where configuration or input cannot be used, 1 where what a start
        needs may still come.
    """
    parser = _parser("infbox-watch", "Watch source trees and keep their packs warm.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    scan = commands.add_parser("scan", help="print the files that would be indexed")
    scan.add_argument("directory", metavar="DIR", type=Path)
    how = scan.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="add size, hash and tokens")
    how.add_argument("--why", metavar="PATH", help="name the rule that decides about this file")
    scan.add_argument("--config", metavar="FILE", type=Path,
                      help=f"apply the rules of this configuration (default: {_CONFIG}, "
                      "if it exists)")  # fmt: skip
    _add_tokenizer(scan)
    scan.set_defaults(command=_scan)

    pack = commands.add_parser("pack", help="print the pack of a directory")
    pack.add_argument("directory", metavar="DIR", type=Path)
    pack.add_argument("--budget", metavar="TOKENS", type=_positive, required=True)
    pack.add_argument("--stats", action="store_true", help="print its numbers as JSON instead")
    pack.add_argument("--base", metavar="DIR", type=Path,
                      help="overlay on this directory's pack, 4/5 of the budget")  # fmt: skip
    _add_tokenizer(pack)
    pack.set_defaults(command=_pack)

    copy = commands.add_parser("mirror", help="copy the files that may leave this machine")
    copy.add_argument("directory", metavar="DIR", type=Path)
    copy.add_argument("target", metavar="TO", type=Path)
    copy.add_argument("--follow", action="store_true",
                      help="continue as files are saved, until Ctrl+C")  # fmt: skip
    copy.add_argument("--host", metavar="SERVER:/DIRECTORY", help="send the copy there with rsync")
    copy.add_argument("--carry", choices=("rsync", "lsyncd", "mutagen"),
                      help="write the configuration that keeps it running")  # fmt: skip
    copy.set_defaults(command=_mirror)

    past = commands.add_parser("replay", help="print what each packing policy would have cost")
    past.add_argument("repository", metavar="REPO", type=Path)
    past.add_argument("--commits", metavar="N", type=_positive, default=100)
    past.add_argument("--budget", metavar="TOKENS", type=_positive, required=True)
    past.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_tokenizer(past)
    past.set_defaults(command=_replay)

    ask = commands.add_parser("ask", help="print what would precede a question, and why")
    ask.add_argument("directory", metavar="DIR", type=Path)
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--show", action="store_true", required=True, help="print it")
    _add_engine(ask, "have a model answer it too")
    ask.add_argument("--answer", metavar="TOKENS", type=_positive, default=300,
                     help="that the answer may have (%(default)s)")  # fmt: skip
    ask.add_argument("--budget", metavar="TOKENS", type=_positive, default=32_000,
                     help="tokens before the question in all (%(default)s)")  # fmt: skip
    ask.add_argument("--retrieve", metavar="TOKENS", type=_positive, default=8000,
                     help="of these, tokens for retrieval (%(default)s)")  # fmt: skip
    _add_weights(ask)
    _add_tokenizer(ask)
    ask.set_defaults(command=_ask)

    _add_evaluate(commands)
    _add_client(commands)
    _add_run(commands, "run the watcher, until stopped", _run_watcher)
    return exit_status("infbox-watch", parser.parse_args(arguments))


def _add_engine(parser: argparse.ArgumentParser, what: str) -> None:
    told = f"{what}; an API key is taken from INFBOX_API_KEY"
    parser.add_argument("--engine", metavar="URL", help=told)
    parser.add_argument("--model", metavar="NAME", default="coder",
                        help="that the engine serves (%(default)s)")  # fmt: skip


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    use = commands.add_parser(
        "evaluate", help="print how much of the code that commits changed a prompt would have shown"
    )
    use.add_argument("repository", metavar="REPO", type=Path)
    use.add_argument("--commits", metavar="N", type=_positive, default=100)
    use.add_argument("--budget", metavar="TOKENS", type=_positive, required=True,
                     help="tokens of a prompt in all")  # fmt: skip
    use.add_argument("--retrieve", metavar="TOKENS", type=_positive, default=8000,
                     help="of these, tokens for retrieval (%(default)s)")  # fmt: skip
    use.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_engine(use, "have a model judge too, by vLLM's prompt_logprobs; needs --tokenizer")
    use.add_argument("--samples", metavar="N", type=_positive, default=20,
                     help="commits that the model judges (%(default)s)")  # fmt: skip
    _add_weights(use)
    _add_tokenizer(use)
    use.set_defaults(command=_evaluate)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    for option, what in (
        (_PACK_WEIGHT, "what edits are worth in the pack, such as tests=0.5"),
        (_RETRIEVAL_WEIGHT, "what a match is worth to a question"),
    ):
        parser.add_argument(option, metavar="KIND=NUMBER", action="append", default=[],
                            help=f"{what}; repeat it for each kind of file")  # fmt: skip


def _add_client(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    client = commands.add_parser(
        "client",
        help="print the configuration of a coding agent or an editor",
        description="Print the configuration of a coding agent or an editor. The window is read"
        " from the server, with the key in INFBOX_API_KEY or --key-file; --window needs no key.",
    )
    client.add_argument("name", metavar="NAME", help="such as claude-code; list prints all")
    client.add_argument("--server", metavar="URL", default="https://SERVER",
                        help="such as https://gpu1.example.org")  # fmt: skip
    client.add_argument("--workspace", metavar="NAME", default="", help="default: the only one")
    client.add_argument("--window", metavar="TOKENS", type=_positive,
                        help="window without the pack; default: the server's answer")  # fmt: skip
    client.add_argument("--model", metavar="NAME", default="coder",
                        help="with --window: name without the workspace (%(default)s)")  # fmt: skip
    client.add_argument("--ca", metavar="FILE", type=Path, help="file with the server's root.crt")
    client.add_argument("--key-file", metavar="FILE", type=Path, help="file with the API key")
    client.add_argument("--show-key", action="store_true",
                        help="print the key itself in place of the variable")  # fmt: skip
    client.set_defaults(command=_client)


def gateway(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox-gateway``; arguments and status as for ``watch``."""
    parser = _parser("infbox-gateway", "Put packs in front of the questions to a model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands, "run the gateway, until stopped", _run_gateway)

    usage = commands.add_parser("usage", help="print each user's tokens by day and workspace")
    usage.add_argument("--config", metavar="FILE", type=Path, default=_CONFIG,
                       help="the service's configuration (%(default)s)")  # fmt: skip
    usage.add_argument("--days", metavar="N", type=_positive, default=30,
                       help="number of last days with any usage (%(default)s)")  # fmt: skip
    usage.add_argument("--json", action="store_true", help="print JSON instead of a table")
    usage.set_defaults(command=_usage)
    return exit_status("infbox-gateway", parser.parse_args(arguments))


def keys(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox-keys``; arguments and status as for ``watch``."""
    parser = _parser("infbox-keys", "Say who may ask, by a key for each user.")
    parser.add_argument("--digests", metavar="FILE", type=Path, default=_DIGESTS,
                        help="digests of the keys, for the key service (%(default)s)")  # fmt: skip
    parser.add_argument("--directory", metavar="DIR", type=Path, default=_KEYS,
                        help="directory of the keys, one file per user (%(default)s)")  # fmt: skip
    parser.add_argument("--folder", type=_renamed("--directory"), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the key service, until stopped")
    serve.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8012")
    serve.add_argument("--shared-limits", metavar="HOST:PORT",
                       help="the Valkey in which replicas count requests together")  # fmt: skip
    serve.add_argument("--certificates", metavar="DIR", type=Path, default=_CERTIFICATES,
                       help="group.crt and group.key for it (%(default)s)")  # fmt: skip
    serve.add_argument("--shared-timeout", metavar="SECONDS", type=float, default=1.0,
                       help="after which this host counts by itself (%(default)s)")  # fmt: skip
    serve.set_defaults(command=_serve_keys)

    apply = commands.add_parser("apply", help="generate missing keys, and end keys of other users")
    apply.set_defaults(command=_apply_keys)

    copy = commands.add_parser("copy", help="have the keys of another host, whose files are here")
    copy.set_defaults(command=_copy_keys)

    merge = commands.add_parser("merge", help="end the keys that ended on other replicas")
    merge.set_defaults(command=_merge_keys)

    for command in (apply, merge):
        command.add_argument("--dry-run", action="store_true", help="only print what would change")

    shown = commands.add_parser("list", help="print each user's keys and workspaces")
    shown.set_defaults(command=_list_keys)

    _add_key_changes(commands)
    return exit_status("infbox-keys", parser.parse_args(arguments))


def _add_key_changes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    last = "its last day, in UTC, as 2027-01-31"

    add = commands.add_parser("add", help="add a key with a label")
    add.add_argument("key", metavar="USER/LABEL")
    add.add_argument("--expires", metavar="DAY", default="", help=last)
    add.set_defaults(command=_add_key)

    rotate = commands.add_parser("rotate", help="replace a key; the previous one ends")
    rotate.add_argument("key", metavar="USER[/LABEL]", help="without a label: the key `default`")
    how = rotate.add_mutually_exclusive_group()
    how.add_argument("--expires", metavar="DAY", default="", help=last)
    how.add_argument("--all", action="store_true", help="rotate all keys of the user")
    rotate.set_defaults(command=_rotate_key)

    disable = commands.add_parser("disable", help="end a key; its label stays in the list")
    disable.add_argument("key", metavar="USER/LABEL")
    disable.set_defaults(command=_disable_key)

    remove = commands.add_parser("remove", help="end a key and forget its label")
    remove.add_argument("key", metavar="USER/LABEL")
    remove.set_defaults(command=_remove_key)

    revoke = commands.add_parser("revoke", help="end all keys of a user")
    revoke.add_argument("user", metavar="USER")
    revoke.set_defaults(command=_revoke_key)

    for command in (add, rotate, disable, remove, revoke):
        command.add_argument("--dry-run", action="store_true", help="only print what would change")


def signin(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox-signin``; arguments and status as for ``watch``."""
    parser = _parser("infbox-signin", "Let people in whom an OpenID Connect provider knows.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add_run(commands, "run the sign-in service, until stopped", _run_signin)
    run.add_argument("--secret", metavar="FILE", type=Path, required=True,
                     help="file with the client's secret")  # fmt: skip
    return exit_status("infbox-signin", parser.parse_args(arguments))


def remotes(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox-remotes``; arguments and status as for ``watch``."""
    parser = _parser("infbox-remotes", "Keep work trees where git remotes are.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands, "follow git remotes, until stopped", _run_remotes)
    return exit_status("infbox-remotes", parser.parse_args(arguments))


def _scan(options: argparse.Namespace) -> None:
    tree, is_model_known = _judged_tree(options)
    _print_scan(options, tree)
    if not is_model_known:
        told = "control tokens were not looked for: give --config or --tokenizer"
        print(f"infbox-watch: {told}", file=sys.stderr)


def _print_scan(options: argparse.Namespace, tree: Tree) -> None:
    if options.why is not None:
        kept, rule = tree.why(_relative(options.why, tree.root))
        print(f"{'kept' if kept else 'left out'}: {rule}")
        return
    found = [(path, tree.read(path)) for path in sorted(tree.scan(), key=os.fsencode)]
    kept_files = [(path, content) for path, content in found if content and not content.refused]
    if not options.json:
        sys.stdout.buffer.writelines(os.fsencode(path) + b"\n" for path, _ in kept_files)
        return
    from infbox.packing import tokens

    count = tokens.load(options.tokenizer).count
    listing = [
        {
            "path": path,
            "size": len(content.data),
            "hash": content.digest,
            "tokens": count(content.text),
        }
        for path, content in kept_files
    ]
    print(json.dumps(listing, indent=1))


def _pack(options: argparse.Namespace) -> None:
    from infbox.packing import tokens
    from infbox.packing.packer import packed

    tokenizer = tokens.load(options.tokenizer)
    over = (_tree(options.base), options.budget * 4 // 5) if options.base else None
    pack, files, shared = packed(_tree(options.directory), options.budget, tokenizer, over)
    if not options.stats:
        sys.stdout.buffer.write(pack.text.encode())
        return
    stats = {
        "files": len(pack.shown),
        "of_files": files,
        "tokens": pack.tokens,
        "budget": options.budget,
        **({"shared_tokens": shared} if over else {}),
    }
    print(json.dumps(stats))


def _mirror(options: argparse.Namespace) -> None:
    from functools import partial

    from infbox.mirror import carriers
    from infbox.mirror.copy import INSIDE, Change, follow, mirror, prepare

    def told(change: Change) -> None:
        counts = (f"{number} {name}" for name, number in change._asdict().items())
        print(", ".join(counts), flush=True)

    source, target = options.directory.absolute(), options.target.absolute()
    host = carriers.checked_host(options.host) if options.host else ""
    if options.carry and not host:
        raise InputError("--carry: needs --host SERVER:/DIRECTORY: add it")
    with contextlib.closing(_tree(source)) as tree:
        prepare(source, target)
        if options.carry:
            print("\n".join(carriers.written(options.carry, source, target, host)))
            return
        on = partial(carriers.by_rsync, target / INSIDE, host) if host else None
        if options.follow:
            log.to_stderr()
            with contextlib.suppress(KeyboardInterrupt):
                follow(source, target, told, on)
            return
        told(mirror(tree, target))
    try:
        if on:
            on()
    except carriers.CarryError as error:
        raise UnreadyError(f"{host}: {error}") from error


def _replay(options: argparse.Namespace) -> None:
    from infbox.evaluation.replay import replay
    from infbox.packing import tokens

    if not options.repository.is_dir():
        raise InputError(f"{options.repository}: not a directory: give a git repository")
    tokenizer = tokens.load(options.tokenizer)
    result = replay(options.repository, options.commits, options.budget, tokenizer)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['saves']} saves, of files of {result['edited_mean']:.0f} tokens on average")
    recall = dict(zip(("log", "path", "recency"), result["recall"].values(), strict=True))
    for name, numbers in result["policies"].items():
        print(
            f"{name:8} recomputed {numbers['recomputed_mean']:8.0f} of {numbers['pack_mean']:.0f}"
            f" tokens a save, {numbers['rebases']} rebases, recall {recall[name]:.0%}"
        )


def _ask(options: argparse.Namespace) -> None:
    import contextlib

    from infbox.packing import tokens
    from infbox.retrieval.asking import explained, prompt_for
    from infbox.retrieval.search import rendered

    if options.retrieve >= options.budget:
        raise InputError(
            f"--retrieve {options.retrieve}: give fewer tokens than --budget, {options.budget}"
        )
    weights = _weights(options)
    tokenizer = tokens.load(options.tokenizer)
    with contextlib.closing(_tree(options.directory)) as tree:
        budgets = options.budget, options.retrieve
        prompt = prompt_for(tree, options.question, *budgets, tokenizer, weights=weights)
    print(explained(prompt, tokenizer).encode(errors="replace").decode(), flush=True)
    if options.engine:
        from infbox.evaluation.engine import Engine

        asked = rendered(prompt.chosen) + options.question
        answer = Engine(options.engine).answer(
            options.model, prompt.pack.text, asked, options.answer
        )
        print(f"\nanswer of {options.model}\n\n{answer}")


def _evaluate(options: argparse.Namespace) -> None:
    from infbox.evaluation.evaluate import evaluate, table
    from infbox.packing import tokens

    if not options.repository.is_dir():
        raise InputError(f"{options.repository}: not a directory: give a git repository")

    def tell(done: int, of: int) -> None:
        print(f"{done} of {of} commits", file=sys.stderr, flush=True)

    weights = _weights(options)
    tokenizer = tokens.load(options.tokenizer)
    judge = None
    if options.engine:
        from infbox.evaluation.engine import Engine
        from infbox.evaluation.judge import Judge

        if not isinstance(tokenizer, tokens.Model):
            raise InputError("--engine: give --tokenizer FILE, the tokenizer.json of its model")
        samples = options.samples, options.commits
        judge = Judge(Engine(options.engine), options.model, tokenizer, *samples)
    numbers = options.commits, options.budget, options.retrieve
    result = evaluate(
        options.repository, *numbers, tokenizer, tell=tell, judge=judge, weights=weights
    )
    print(json.dumps(result) if options.json else table(result))


def _weights(options: argparse.Namespace) -> Weights:
    from infbox import kinds

    pack, retrieval = _numbers(options.pack_weight), _numbers(options.retrieval_weight)
    return kinds.Weights(
        kinds.changed(kinds.PACK_WEIGHTS, pack, f"{_PACK_WEIGHT} "),
        kinds.changed(kinds.RETRIEVAL_WEIGHTS, retrieval, f"{_RETRIEVAL_WEIGHT} "),
    )


def _numbers(given: Sequence[str]) -> dict[str, object]:
    """Return the numbers behind names; what is no number as it is, for the message."""
    numbers: dict[str, object] = {}
    for each in given:
        name, _, value = each.partition("=")
        numbers[name] = value
        with contextlib.suppress(ValueError):
            numbers[name] = float(value)
    return numbers


def _client(options: argparse.Namespace) -> None:
    from infbox.client.access import access_for
    from infbox.client.configurations import CLIENTS, configuration, instructions

    if options.name == "list":
        print("\n".join(sorted(CLIENTS)))
        return
    made = configuration(options.name, access_for(options))
    print(instructions(made), file=sys.stderr, flush=True)
    print(made.text, end="")


def _run_watcher(options: argparse.Namespace) -> None:
    from importlib.util import find_spec

    from infbox import config

    with _extra("watcher"):
        from infbox.watcher import main

        if find_spec("starlette") is None:  # which the process that it starts would miss
            raise ModuleNotFoundError(name="starlette")

    log.to_stderr()
    sys.exit(main.run(config.load(options.config)))


def _run_gateway(options: argparse.Namespace) -> None:
    from infbox import config

    with _extra("gateway"):
        from infbox.gateway import app as server

    log.to_stderr()
    server.run(config.load(options.config))


def _usage(options: argparse.Namespace) -> None:
    import sqlite3

    from infbox import config
    from infbox.auth import usage

    file = usage.file_in(config.load(options.config).state_dir)
    try:
        rows = [(*key, *counts) for key, counts in usage.read(file, options.days)]
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{file}: {error}: run it as root, on the host") from error
    if options.json:
        print(json.dumps([dict(zip(usage.COLUMNS, row, strict=True)) for row in rows]))
        return
    table = [usage.COLUMNS, *(tuple(str(value) or "-" for value in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _serve_keys(options: argparse.Namespace) -> None:
    from infbox import config

    with _extra("keys"):
        from infbox.auth import key_service

    log.to_stderr()
    shared = None
    if options.shared_limits:
        address = config.listen_at(options.shared_limits, "--shared-limits")
        shared = config.SharedLimits(address, options.certificates)
    key_service.run(
        options.digests,
        config.listen_at(options.listen, "--listen"),
        shared,
        options.shared_timeout,
    )


def _run_signin(options: argparse.Namespace) -> None:
    from infbox import config

    with _extra("sign-in"):
        from infbox.auth import sign_in

    log.to_stderr()
    try:
        secret = options.secret.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise InputError(f"{options.secret}: {reason}: give the client's secret") from error
    if not secret:
        raise InputError(f"{options.secret}: is empty: give the client's secret")
    sign_in.run(config.load_sign_in(options.config), secret)


def _run_remotes(options: argparse.Namespace) -> None:
    from infbox import config

    with _extra("remotes"):
        from infbox.remotes import service

    log.to_stderr()
    service.run(config.load_remotes(options.config))


def _apply_keys(options: argparse.Namespace) -> None:
    from infbox.auth.keys import limits_from

    try:
        content = json.load(sys.stdin)
    except ValueError as error:
        raise InputError(
            'give the users as JSON, as {"alice": {"requests_per_minute": 60}, "bob": {}}'
        ) from error
    change = _keyring(options).apply(limits_from(content), is_dry=options.dry_run)
    print(json.dumps(change._asdict()))


def _copy_keys(options: argparse.Namespace) -> None:
    from infbox.auth.keys import known_from, limits_from

    try:
        content = json.load(sys.stdin)
        wanted, known = content["wanted"], known_from(content["known"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "give the users as JSON, in `wanted`, and the other host's users.json in `known`: "
            f"{type(error).__name__}"
        ) from error
    print(json.dumps(_keyring(options).copy(limits_from(wanted), known)._asdict()))


def _merge_keys(options: argparse.Namespace) -> None:
    from infbox.auth.record import parsed

    try:
        records = [parsed(each) for each in json.load(sys.stdin)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "give a list of records as JSON, each the content of _keys.json of a replica: "
            f"{type(error).__name__}"
        ) from error
    is_changed = _keyring(options).merge(records, is_dry=options.dry_run)
    print(json.dumps({"changed": is_changed}))


def _list_keys(options: argparse.Namespace) -> None:
    from infbox.auth.keys import known_users

    for user, known in known_users(options.digests).items():
        limits = known.limits
        per_minute = limits.requests_per_minute or "any number of"
        at_once = limits.concurrent_requests or "any number"
        names = ", ".join(limits.workspaces) or "none"
        until = f"; until {limits.expires}" if limits.expires else ""
        tokens = [
            f"{most} computed tokens per {period}"
            for period in ("minute", "day")
            if (most := limits.numbers[f"tokens_per_{period}"])
        ]
        may = ", ".join([f"{per_minute} requests per minute", f"{at_once} in progress", *tokens])
        says = f"{may}; workspaces: {names}{until}"
        print(f"{user}: {says}")
        for label, key in known.keys.items():
            made = f", made {key.made}" if key.made else ""
            until = f", until {key.expires}" if key.expires else ""
            print(f"  {label}{made}{until}{', disabled' if key.disabled else ''}")


def _add_key(options: argparse.Namespace) -> None:
    user, label = _labelled(options)
    is_dry = options.dry_run
    file = _keyring(options).add(user, label, options.expires, is_dry=is_dry)
    if is_dry:
        print(f"{user}/{label} would get a key, in {file}.")
        return
    print(f"{user}/{label} has a key, in {file}. No command prints it.")


def _rotate_key(options: argparse.Namespace) -> None:
    from infbox.auth.labels import parsed

    (user, label), ring, is_dry = parsed(options.key), _keyring(options), options.dry_run
    if not options.all:
        files = [ring.rotate(user, label, options.expires, is_dry=is_dry)]
    elif "/" in options.key:
        raise InputError(f"{options.key}: --all takes a user: leave out the label")
    else:
        files = ring.rotate_all(user, is_dry=is_dry)
    for file in files:
        if is_dry:
            print(f"{options.key} would get another key, in {file}.")
        else:
            print(f"{options.key} has another key, in {file}. The one before has ended.")


def _disable_key(options: argparse.Namespace) -> None:
    user, label = _labelled(options)
    _keyring(options).disable(user, label, is_dry=options.dry_run)
    print(f"The key {user}/{label} {'would be' if options.dry_run else 'is'} disabled.")


def _remove_key(options: argparse.Namespace) -> None:
    user, label = _labelled(options)
    _keyring(options).remove(user, label, is_dry=options.dry_run)
    print(f"The key {user}/{label} {'would be' if options.dry_run else 'is'} removed.")


def _revoke_key(options: argparse.Namespace) -> None:
    _keyring(options).revoke(options.user, is_dry=options.dry_run)
    if options.dry_run:
        print(f"All keys of {options.user} would end.")
        return
    print(
        f"All keys of {options.user} have ended. Take the name off infbox_users as well, "
        "or the next run of site.yml makes a new one."
    )


def _labelled(options: argparse.Namespace) -> tuple[str, str]:
    """Return user and label of what was given.

    Raises:
        InputError: it has no label.
    """
    from infbox.auth.labels import parsed

    if "/" not in options.key:
        raise InputError(f"{options.key}: give a user and a label, as {options.key}/laptop")
    return parsed(options.key)


def _keyring(options: argparse.Namespace) -> Keyring:
    from infbox.auth.keyring import Keyring

    return Keyring(options.directory, options.digests)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Import what only one of the services needs.

    Raises:
        InputError: it was installed without that.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "infbox").startswith("infbox"):
            raise
        raise InputError(
            f"{error.name} is not installed: install infbox-watcher with its extra `{name}`"
        ) from error


def _judged_tree(options: argparse.Namespace) -> tuple[Tree, bool]:
    """Return a tree, judged by the rules of the service where there is one, and whether the model's
    control tokens are known."""
    from infbox import config
    from infbox.config import MAX_FILE_BYTES
    from infbox.watcher import service

    file = options.config or (_CONFIG if _CONFIG.exists() else None)
    if file:
        settings = config.load(file)
        most, tokenizer = settings.watcher.max_file_bytes, settings.engine.tokenizer
    else:
        most, tokenizer = MAX_FILE_BYTES, options.tokenizer
    control = service.read_control_tokens(tokenizer) if tokenizer else ()
    return _tree(options.directory, most, control), bool(tokenizer)


def _tree(directory: Path, max_bytes: int | None = None, control: tuple[str, ...] = ()) -> Tree:
    from infbox.config import MAX_FILE_BYTES
    from infbox.tree.files import Tree

    if not directory.is_dir():
        raise InputError(f"{directory}: not a directory: give an existing one")
    return Tree(directory, max_bytes or MAX_FILE_BYTES, control_tokens=control)


def _relative(path: str, root: Path) -> str:
    """Return a path as the tree names it; it may be given relative to the root, or absolute."""
    inside = os.path.normpath(root / path)
    if not Path(inside).is_relative_to(root):
        raise InputError(f"{path}: not inside {root}: give a path below it")
    return os.path.relpath(inside, root)


def _renamed(new: str) -> Callable[[str], str]:
    """Return a type of argument that is refused with the argument's new name."""

    def refuse(_: str) -> str:
        raise argparse.ArgumentTypeError(f"is now named {new}: rename it")

    return refuse


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        type=Path,
        help="a tokenizer.json to count tokens; without it, they are estimated from bytes",
    )


def _add_run(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    text: str,
    command: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help=text)
    parser.add_argument("--config", metavar="FILE", type=Path, required=True)
    parser.set_defaults(command=command)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number larger than 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(watch())
