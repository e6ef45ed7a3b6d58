"""Follow the logs of all services on all hosts, until interrupted: `make logs FOLLOW=1`.

    python tools/follow_logs.py [-i INVENTORY] [--limit HOST] [--service vllm] [--since 10m]

Ansible shows what a command prints once it has ended. So it is asked for the hosts alone, and they
are followed over ssh.
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GROUP = "inference"

# What reads the logs, on a host: each line with its service in front. A container's log ends with
# the container, and is taken up again by the next of its name.
SCRIPT = r"""
follow_container() {
  from=$since
  while :; do
    docker logs --follow --timestamps --since "$from" "infbox-$1-1" 2>&1
    from=2s
    sleep 1
  done
}
follow_unit() {
  journalctl --follow --no-pager --output=short-iso --since="-$since" --unit="infbox-$1"
}
named() { sed --unbuffered "s/^/$1 | /"; }

label=com.docker.compose.project=infbox
containers=$(docker ps --all --filter "label=$label" --format '{{.Names}}' |
  sed -n 's/^infbox-\(.*\)-1$/\1/p')
units=$(systemctl list-units --all --plain --no-legend 'infbox-*.service' |
  sed -n 's/^infbox-\([a-z-]*\)\.service.*/\1/p')
known=$(echo $containers $units)
case " all $known " in
  *" $service "*) ;;
  *) echo "There is no service $service here. Use all or one of $known."; exit 1 ;;
esac
for name in $containers; do
  case $service in all|$name) follow_container $name | named $name & esac
done
for name in $units; do
  case $service in all|$name) follow_unit $name | named $name & esac
done
wait
"""


class FollowError(Exception):
    """A host cannot be followed; the message says what to do."""


def hosts(inventory: Sequence[str], limit: str | None) -> dict[str, dict[str, Any]]:
    """Return the variables of the hosts that serve, by name.

    Args:
        inventory: options for ``ansible-inventory`` that name it; those of ansible.cfg if empty.
        limit: pattern of hosts; all when None.

    Raises:
        FollowError: there is no such inventory, or no host in it.
    """
    command = ["ansible-inventory", *inventory, "--list", *(["--limit", limit] if limit else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FollowError(done.stderr.strip())
    told = json.loads(done.stdout)
    found = {name: told["_meta"]["hostvars"].get(name, {}) for name in _members(told, GROUP)}
    if not found:
        raise FollowError(f"There is no host in the group {GROUP}: give an inventory by -i.")
    return found


def _members(told: Mapping[str, Any], group: str) -> Iterator[str]:
    """Yield the hosts of a group and of the groups in it."""
    entry = told.get(group, {})
    yield from entry.get("hosts", [])
    for child in entry.get("children", []):
        yield from _members(told, child)


def command(name: str, variables: Mapping[str, Any], service: str, since: str) -> list[str]:
    """Return what follows a host's logs.

    Args:
        name: of the host in the inventory.
        variables: that Ansible reaches it by.
        service: one, or ``all``.
        since: how far to go back, such as ``10m``.

    Raises:
        FollowError: the host is reached in a way that only Ansible knows.
    """
    script = f"service={shlex.quote(service)} since={shlex.quote(since)}\n{SCRIPT}"
    kind = variables.get("ansible_connection", "ssh")
    if kind == "local":
        return ["sh", "-c", script]
    used = {
        key: str(variables[f"ansible_{key}"])
        for key in ("host", "port", "user", "ssh_private_key_file", "ssh_common_args")
        if variables.get(f"ansible_{key}")
    }
    if kind != "ssh" or any("{{" in value for value in used.values()):
        raise FollowError(f"{name} is reached in a way that only Ansible knows: log in to it.")
    user = used.get("user", "")
    remote = script if user == "root" else f"sudo -n sh -c {shlex.quote(script)}"
    return [
        "ssh",
        "-tt",  # so that what runs there ends with this
        "-o",
        "LogLevel=ERROR",
        *shlex.split(used.get("ssh_common_args", "")),
        *(["-p", used["port"]] if "port" in used else []),
        *(["-l", user] if user else []),
        *(["-i", used["ssh_private_key_file"]] if "ssh_private_key_file" in used else []),
        used.get("host", name),
        remote,
    ]


async def follow(commands: Mapping[str, Sequence[str]]) -> int:
    """Print what the commands print, each line with its host in front, until all have ended.

    Returns:
        0 if all went well, else 1.

    Raises:
        asyncio.CancelledError: the process was interrupted.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # so says asyncio of a coroutine that runs
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    width = max(map(len, commands))
    return max(await asyncio.gather(*(_one(name.ljust(width), c) for name, c in commands.items())))


async def _one(name: str, words: Sequence[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *words, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    assert process.stdout is not None  # noqa: S101  # it was asked for
    try:
        async for line in process.stdout:
            print(name, line.decode(errors="replace").rstrip("\r\n"), flush=True)
        return 1 if await process.wait() else 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)


def main() -> int:
    """Follow; exit status 1 where a host cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-i", dest="inventory", action="append", default=[], metavar="INVENTORY")
    parser.add_argument("--limit", metavar="HOST", help="these alone")
    parser.add_argument("--service", default="all", help="one of them; all if not given")
    parser.add_argument("--since", default="1m", help="how far to go back: 30s, 10m, 2h")
    options = parser.parse_args()
    if not re.fullmatch(r"[1-9][0-9]*[smh]", options.since):
        parser.error(f"--since is {options.since!r}: give a number with s, m or h, as 10m")
    inventory = [word for one in options.inventory for word in ("-i", one)]
    try:
        found = hosts(inventory, options.limit)
        commands = {
            name: command(name, variables, options.service, options.since)
            for name, variables in found.items()
        }
    except FollowError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return asyncio.run(follow(commands))
    except asyncio.CancelledError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
