"""How hosts are, from what each tells and from what only its host knows: as text and as figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

COLUMNS = (
    "host",
    "state",
    "preset",
    "release",
    "warm",
    "running",
    "from cache",
    "first problem",
)
UNREACHABLE = "The host cannot be reached."
LINKS = ("live", "current")
AGES = ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"))
# The states of a service, as the gateway names them.
SERVICE_WORDS = {"healthy": "healthy", "late": "slow", "unhealthy": "unhealthy", "down": "down"}
# What a gateway of the release before has in place of them.
EARLIER_STATES = {"well": "healthy", "ill": "unhealthy"}
KILO = 1000
LARGE_UNITS = ("B", "kB", "MB", "GB", "TB")


def host_status(
    told: Mapping[str, Any] | None,
    links: Sequence[str],
    containers: Sequence[str],
    units: Sequence[str],
    head: str = "",
    *,
    names: Sequence[str] = (),
    driver: Sequence[str] = (),
) -> dict[str, Any]:
    """Return how a host is.

    Args:
        told: what the gateway's /status answered; None or empty where it did not.
        links: where `live` and `current` point; empty where there is no release.
        containers: a line each: name, a tab, what Docker says of it.
        units: what systemd says of each of ours, in the order of their names.
        head: the host that answers by the model of which this one only holds a part; empty for one
            that answers by itself. A part has no gateway.
        names: of the services that are units on this host, without `infbox-`.
        driver: a line of JSON, as the role `nvidia_driver` records what it installed, and the
            version that the kernel has loaded; either may be missing.

    Returns:
        `healthy`, `problems` in words, `release`, `containers` and `units` by name, `status`, the
        gateway's own words, or None, `head`, and `driver`: version, branch, modules and loaded, or
        None where infbox installed none.
    """
    releases = [link.rpartition("/")[2] for link in links]
    running = dict(line.split("\t", 1) for line in containers if "\t" in line)
    host = {
        "release": releases[0] if releases else None,
        "release_passed": len(releases) == len(LINKS) and len(set(releases)) == 1,
        "containers": running,
        "units": {
            f"infbox-{name}": state
            for name, state in zip_longest(names, units[: len(names)], fillvalue="missing")
        },
        "status": _current(told) if told else None,
        "head": head,
        "driver": _driver(driver),
    }
    problems = list(_problems(host))
    return {"healthy": not problems, "problems": problems, **host}


def hosts_status(
    names: Sequence[str], variables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return how all hosts are, by name; one that was not looked at cannot be reached.

    Args:
        names: of the hosts.
        variables: of each; `status_of_host` is what `host_status` returned.
    """
    away: dict[str, Any] = {
        "healthy": False,
        "problems": [UNREACHABLE],
        "release": None,
        "release_passed": False,
        "containers": {},
        "units": {},
        "status": None,
        "head": "",
        "driver": None,
    }
    return {name: variables[name].get("status_of_host", away) for name in names}


def status_text(host: Mapping[str, Any], name: str) -> str:
    """Return how a host is as a block of text: the verdict, what is wrong, what there is.

    Args:
        host: as `host_status` returns it.
        name: of the host.
    """
    lines = [f"{name}: {'healthy' if host['healthy'] else 'UNHEALTHY'}"]
    lines += [f"- {problem}" for problem in host["problems"]]
    lines += [_line(head, text) for head, text in _facts(host)]
    return "\n".join(lines)


def status_table(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how all hosts are, a line each."""
    rows = [COLUMNS, *(_row(name, host) for name, host in hosts.items())]
    widths = [max(len(line[i]) for line in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in rows
    )


def status_figures(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return how all hosts are, for scripts."""
    return {"healthy": all(host["healthy"] for host in hosts.values()), "hosts": dict(hosts)}


def _current(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a gateway told in the words of this release; None if it told something else."""
    if "parts" in told:
        services = [
            {**part, "state": EARLIER_STATES.get(part["state"], part["state"])}
            for part in told["parts"]
        ]
        return {**told, "services": services, "healthy": told["well"]}
    return told if "services" in told else None


def _driver(lines: Sequence[str]) -> dict[str, Any] | None:
    """Return what a host records of its driver, and what is loaded."""
    loaded = next((line.strip() for line in lines if line[:1].isdigit()), "")
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            names = ("version", "branch", "modules")
            return {name: str(record.get(name, "")) for name in names} | {"loaded": loaded}
    return None


def _problems(host: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong: what the host itself knows first."""
    if not host["release"]:
        yield "There is no release yet: run site.yml."
    elif not host["release_passed"]:
        yield f"Release {host['release']} has not passed its health checks."
    for name, said in host["containers"].items():
        # Docker asks every few seconds; the gateway has asked just now, and knows who answers.
        is_answering = "(health: starting)" in said and host["status"] and host["status"]["healthy"]
        if "(healthy)" not in said and not is_answering:
            yield f"Container {name} is unhealthy: {said}."
    for name, state in host["units"].items():
        if state != "active":
            yield f"Unit {name} is {state}: journalctl -u {name}"
    driver = host["driver"]
    if driver and driver["loaded"] != driver["version"]:
        yield (
            f"NVIDIA driver {driver['version']} is installed, and"
            f" {driver['loaded'] or 'none'} is loaded: reboot the host."
        )
    if host["status"]:
        yield from _told_problems(host["status"])
    elif not host["head"]:
        yield "The gateway does not report a status: systemctl status infbox-gateway"


def _told_problems(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the gateway found."""
    for service in told["services"]:
        if service["state"] in ("unhealthy", "down"):
            hint = f"Run {service['look']} ({service['see']})"
            yield f"{service['name']} is unhealthy. {service['detail']} {hint}"
    for workspace in told["workspaces"]:
        if workspace["state"] not in ("warm", "warming", "elsewhere"):
            why = f": {workspace['error']}" if workspace["error"] else ""
            yield f"Workspace {workspace['name']} is {_warmth(workspace)}{why}."


def _facts(host: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what there is, as pairs of a heading and a text."""
    told = host["status"]
    if host["head"]:
        yield "node", f"worker of the model that {host['head']} serves"
    if told:
        yield from _served(told)
    if host["release"]:
        yield (
            "release",
            host["release"] + ("" if host["release_passed"] else ", health checks not passed yet"),
        )
    if driver := host["driver"]:
        built = "prebuilt" if driver["modules"] == "prebuilt" else "built on this host"
        words = f"of branch {driver['branch']}, held in apt, kernel modules {built}"
        yield "driver", f"{driver['version']} {words}"
    for name, said in host["containers"].items():
        yield "container", f"{name:<24} {said}"
    for name, state in host["units"].items():
        yield "unit", f"{name:<24} {state}"
    if told:
        yield from _work(told)


def _served(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    served, engine = told["served"], told["engine"]
    words = [served["model"], served["preset"], served["engine"]]
    yield "model", ", ".join([*filter(None, words), f"{served['max_model_len']:,} tokens"])
    if engine.get("running") is not None:
        usage = engine.get("kv_usage") or 0
        asked = f"{engine['running']:.0f} running, {engine['waiting'] or 0:.0f} queued"
        yield "requests", f"{asked}, {usage:.0%} of the KV cache in use"
    yield from _kv(told.get("kv") or {})
    for service in told["services"]:
        state = SERVICE_WORDS.get(service["state"], "not checked yet")
        yield "service", f"{service['name']:<24} {state}"


def _kv(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the KV cache beside its plan; nothing of a gateway that does not report it."""
    words = {"tokens": "reported by vLLM", "planned_tokens": "planned"}
    counts = [f"{told[key]:,} {word}" for key, word in words.items() if told.get(key)]
    if counts:
        yield "KV tokens", ", ".join(counts)
    for note in told.get("notes", ()):
        yield "note", note


def _conversations(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the last hour's conversations fared; nothing of a gateway that does not tell."""
    if told.get("count"):
        cached = told["cached_median"]
        share = "" if cached is None else f", {cached:.0%} of a prompt cached"
        notes = f"{told['told_tokens']:,} tokens of change notes"
        yield f"{told['count']} conversations{share}, {notes}"


def _work(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for workspace in told["workspaces"]:
        words = [_warmth(workspace)]
        if workspace["files"] is not None:
            words.append(f"{workspace['files']:,} files")
        words.append(f"{workspace['tokens']:,} of {workspace['budget']:,} tokens")
        if workspace["last_save"]:
            words.append(f"saved {_ago(told['at'] - workspace['last_save'])}")
        if workspace["saves"] and workspace["recomputed_share"] is not None:
            words.append(f"{workspace['recomputed_share']:.1%} recomputed a save")
        words += _conversations(workspace.get("conversations") or {})
        yield "workspace", f"{workspace['name']:<24} {', '.join(words)}"
    if sum(told["cache"]["tokens"]):
        yield "last hour", _tokens(told)
    for name, spread in told["first_token"].items():
        if spread["count"]:
            text = f"{spread['median']:.2f} s, median of {spread['count']} {name} responses"
            yield "TTFT", text
    spaces = [(disk["path"], disk) for disk in told["disks"]]
    spaces += [(f"LMCache's {store['name']}", store) for store in told["stores"].get("stores", [])]
    for name, space in spaces:
        share = space["used"] / space["size"] if space["size"] else 0
        yield (
            "storage",
            f"{name:<24} {_large(space['used'])} of {_large(space['size'])}, {share:.0%}",
        )
    for gpu in (told["gpus"] or {}).get("gpus", []):
        used = gpu.get("memory_used_mib", 0) / 1024
        size = used + gpu.get("memory_free_mib", 0) / 1024
        busy = f"{gpu.get('utilisation', 0):.0f} % utilization"
        yield "GPU", f"{gpu['gpu']} {gpu['name']:<22} {used:.1f} of {size:.1f} GiB, {busy}"


def _tokens(told: Mapping[str, Any]) -> str:
    tokens = told["cache"]["tokens"]
    whole = sum(tokens)
    names = ("from the prefix cache", "from LMCache", "computed")
    shares = [f"{count / whole:.0%} {name}" for count, name in zip(tokens, names, strict=True)]
    return f"{whole:,.0f} prompt tokens: {', '.join(shares)}"


def _row(name: str, host: Mapping[str, Any]) -> tuple[str, ...]:
    told = host["status"]
    problem = (host["problems"] or [""])[0]
    state = "healthy" if host["healthy"] else "UNHEALTHY"
    if told is None:
        return (name, state, "-", host["release"] or "-", "-", "-", "-", problem)
    warm = sum(workspace["state"] == "warm" for workspace in told["workspaces"])
    running = told["engine"].get("running")
    tokens = told["cache"]["tokens"]
    return (
        name,
        state,
        told["served"]["preset"] or "-",
        host["release"] or "-",
        f"{warm} of {len(told['workspaces'])}",
        "-" if running is None else f"{running:.0f}",
        f"{sum(tokens[:2]) / sum(tokens):.0%}" if sum(tokens) else "-",
        problem,
    )


def _warmth(workspace: Mapping[str, Any]) -> str:
    words = {
        "warm": "warm",
        "warming": "warming",
        "cold": "NOT WARM",
        "elsewhere": "warm on another replica",
    }
    return words.get(workspace["state"], "in an unknown state")


def _ago(seconds: float) -> str:
    for limit, unit, name in AGES:
        if seconds < limit:
            return f"{max(seconds, 0) / unit:.0f} {name} ago"
    return f"{seconds / 86400:.0f} days ago"


def _large(value: float) -> str:
    for unit in LARGE_UNITS[:-1]:
        if value < KILO:
            return f"{value:.0f} {unit}"
        value /= KILO
    return f"{value:.1f} {LARGE_UNITS[-1]}"


def _line(head: str, text: str) -> str:
    return f"{head:<12} {text}"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "host_status": host_status,
            "hosts_status": hosts_status,
            "status_figures": status_figures,
            "status_table": status_table,
            "status_text": status_text,
        }
