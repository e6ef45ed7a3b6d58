"""Users and teams: what each user may use, and what stops a run at its start."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.inputs import rules

ALL = "*"
LIMITS = ("requests_per_minute", "concurrent_requests", "tokens_per_minute", "tokens_per_day")
OF_GROUPS = ("tokens_per_minute", "tokens_per_day")
OF_USERS = ("name", "teams", "workspaces", *LIMITS, "expires")
OF_TEAMS = ("workspaces", "oidc_groups", *LIMITS)

# As names of workspaces are, which are in lower case.
PATTERN = re.compile(r"[a-z0-9*-]*")


def user_names(users: Any) -> list[str]:
    """Return the names of the users.

    Args:
        users: what the user wrote: names, or mappings with a name. What has another form is left
            to the refusals.
    """
    return [str(user["name"]) for user in _users(users)]


def user_limits(users: Any, teams: Any, limits: Any) -> dict[str, dict[str, int]]:
    """Return what limits each user's requests; a user without limits is left out.

    What is said of a user holds, else the widest of the user's teams; 0 is any number.

    Args:
        users: as for `user_names`.
        teams: what the user wrote, by name.
        limits: of users, by name, which may stand apart from the users.
    """
    apart = limits if isinstance(limits, dict) else {}
    found = {}
    for user in _users(users):
        given = apart.get(user["name"])
        own = {**(given if isinstance(given, dict) else {}), **user}
        of_teams = _teams_of(user, teams)
        limited = {
            name: value
            for name in LIMITS
            if (value := own.get(name, _widest(team.get(name) for team in of_teams))) is not None
        }
        if limited:
            found[str(user["name"])] = limited
    # Who has limits and is no user is refused by the role, by name.
    strangers = {str(name): of for name, of in apart.items() if name not in user_names(users)}
    return {**found, **strangers}


def user_workspaces(users: Any, teams: Any, is_private: Any = False) -> dict[str, list[str]]:
    """Return the workspaces that each user may use, as names and patterns.

    Args:
        users: as for `user_names`.
        teams: what the user wrote, by name.
        is_private: whether a user of whom nothing is said may use none, and not all.
    """
    return {
        str(user["name"]): _workspaces([user, *_teams_of(user, teams)], is_private)
        for user in _users(users)
    }


def user_expiries(users: Any) -> dict[str, str]:
    """Return the last day of the keys that have one, by user, as YYYY-MM-DD.

    Args:
        users: as for `user_names`.
    """
    return {str(user["name"]): str(user["expires"]) for user in _users(users) if "expires" in user}


def team_members(users: Any, teams: Any) -> dict[str, list[str]]:
    """Return the users of each team, by its name; a team without any is left out.

    Args:
        users: as for `user_names`.
        teams: what the user wrote, by name.
    """
    found: dict[str, list[str]] = {}
    for user in _users(users):
        for team in dict.fromkeys(_texts(user.get("teams"))):
            if team in _teams(teams):
                found.setdefault(team, []).append(str(user["name"]))
    return found


def group_workspaces(teams: Any, is_private: Any = False) -> dict[str, list[str]]:
    """Return the workspaces that members of an OpenID Connect group may see, by the group.

    Args:
        teams: what the user wrote, by name.
        is_private: as for `user_workspaces`.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for team in _teams(teams).values():
        for group in _texts(team.get("oidc_groups")):
            found.setdefault(group, []).append(team)
    return {group: _workspaces(several, is_private) for group, several in found.items()}


def group_limits(teams: Any) -> dict[str, dict[str, int]]:
    """Return the limits of tokens of members of an OpenID Connect group, by the group.

    Where a group is that of several teams the widest holds; 0 is any number.

    Args:
        teams: what the user wrote, by name.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for team in _teams(teams).values():
        for group in _texts(team.get("oidc_groups")):
            found.setdefault(group, []).append(team)
    limits = {
        group: {
            name: value
            for name in OF_GROUPS
            if (value := _widest(team.get(name) for team in several)) is not None
        }
        for group, several in found.items()
    }
    return {group: of for group, of in limits.items() if of}


def restricts_workspaces(users: Any, teams: Any, is_private: Any = False) -> bool:
    """Return whether there may be somebody who may not use all workspaces."""
    of_users = user_workspaces(users, teams, is_private)
    of_groups = group_workspaces(teams, is_private)
    granted = [*of_users.values(), *of_groups.values()]
    return bool(is_private) or any(ALL not in patterns for patterns in granted)


def access_refusals(access: Mapping[str, Any], workspaces: Any) -> list[str]:
    """Refuse users and teams that say nothing that can be done.

    Args:
        access: users, teams, user_limits, private and has_sign_in; empty for none.
        workspaces: what the user wrote; what has another form is left to the other refusals.
    """
    if not access:
        return []
    users, teams = access["users"], access["teams"]
    if not isinstance(teams, dict):
        return ["infbox_teams is not {NAME: {workspaces, …}}. Write it in this form."]
    if not isinstance(users, list):
        return [
            (
                "infbox_users is not a list of names, or of {name, teams, workspaces}. Write it in"
                " this form."
            )
        ]
    items = workspaces if isinstance(workspaces, list) else []
    known = [str(item.get("name")) for item in items if isinstance(item, dict)]
    refusals = [] if isinstance(access["private"], bool) else [_not_bool(access["private"])]
    for name, team in teams.items():
        refusals += _team_refusals(name, team, known, has_sign_in=access["has_sign_in"])
    for number, user in enumerate(users, start=1):
        refusals += _user_refusals(number, user, teams, known, access["user_limits"])
    names = user_names(users)
    twice = sorted({name for name in names if names.count(name) > 1})
    return refusals + [f"infbox_users has {name} twice. Remove one." for name in twice]


def _team_refusals(name: Any, team: Any, workspaces: list[str], *, has_sign_in: bool) -> list[str]:
    where = f"The team {name} of infbox_teams"
    if not isinstance(team, dict):
        return [f"{where} is not {{workspaces: [NAME, …]}}. Write it in this form."]
    refusals = _entry_refusals(where, team, OF_TEAMS, workspaces)
    groups = team.get("oidc_groups", [])
    if not _is_texts(groups):
        refusals.append(f"{where} has the oidc_groups {groups!r}. Give a list of their names.")
    elif groups and not has_sign_in:
        refusals.append(
            f"{where} has oidc_groups, and infbox_oidc_issuer is not set. Set that too, or remove"
            " them."
        )
    return refusals


def _user_refusals(
    number: int, user: Any, teams: Mapping[str, Any], workspaces: list[str], limits: Any
) -> list[str]:
    if isinstance(user, str):
        user = {"name": user}
    if not isinstance(user, dict) or not user.get("name"):
        return [f"User {number} of infbox_users has no name. Write a name, or {{name: …}}."]
    name = user["name"]
    where = f"The user {name} of infbox_users"
    if not rules.is_user(name):
        return [
            (
                f"{where} cannot be the name of a file. Use up to 32 lower-case letters, digits,"
                " dots, hyphens and underscores, a letter or digit first."
            )
        ]
    refusals = _entry_refusals(where, user, OF_USERS, workspaces)
    if not _is_texts(user.get("teams", [])):
        refusals.append(f"{where} has the teams {user['teams']!r}. Give a list of their names.")
    else:
        for team in user.get("teams", []):
            if team not in teams:
                refusals.append(
                    f"{where} is in the team {team}, which is not in infbox_teams."
                    f" {_near(team, map(str, teams), 'Add it')}"
                )
    if "expires" in user and not _is_day(str(user["expires"])):
        refusals.append(f"{where} expires on {user['expires']}. Give a day as 2027-01-31.")
    both = [limit for limit in LIMITS if limit in user] if isinstance(limits, dict) else []
    if both and name in limits:
        refusals.append(
            f"{where} has {' and '.join(both)}, and infbox_user_limits has {name} too. Remove one"
            " of the two."
        )
    return refusals


def _entry_refusals(
    where: str, entry: Mapping[str, Any], known: Iterable[str], workspaces: list[str]
) -> list[str]:
    """Refuse what is said of a user and of a team alike."""
    refusals = []
    unknown = sorted(set(map(str, entry)) - set(known))
    if unknown:
        refusals.append(f"{where} has {', '.join(unknown)}. There are {', '.join(known)}.")
    for limit in LIMITS:
        value = entry.get(limit, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            refusals.append(f"{where} has {limit} {value!r}. Give a whole number; 0 is any number.")
    minute, day = (entry.get(f"tokens_per_{period}", 0) for period in ("minute", "day"))
    if isinstance(minute, int) and isinstance(day, int) and 0 < day < minute:
        refusals.append(
            f"{where} has tokens_per_day {day} and tokens_per_minute {minute}, which a day could"
            " never reach. Make tokens_per_day the larger one, or leave tokens_per_minute out."
        )
    patterns = entry.get("workspaces", [])
    if not _is_texts(patterns):
        return [
            *refusals,
            (
                f"{where} has the workspaces {patterns!r}. Give a list of names, in which *"
                " stands for any characters."
            ),
        ]
    if len(patterns) > rules.MOST_PATTERNS:
        refusals.append(
            f"{where} has {len(patterns)} workspaces and may have {rules.MOST_PATTERNS}. Use *"
            " to name several at once."
        )
    for pattern in patterns:
        if not PATTERN.fullmatch(pattern) or not rules.is_grant(pattern):
            refusals.append(
                f"{where} has the workspace {pattern}, which is not a workspace name. Use"
                f" lower-case letters, digits and hyphens, and up to {rules.MOST_STARS} times *"
                " for any characters."
            )
        elif ALL not in pattern and pattern not in workspaces:
            refusals.append(
                f"{where} has the workspace {pattern}, which is not in infbox_workspaces."
                f" {_near(pattern, workspaces, 'Add it')}"
            )
    return refusals


def _is_day(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return rules.is_day(value)


def _not_bool(value: Any) -> str:
    return f"infbox_workspaces_private is {value!r}. Set it to true or false."


def _near(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else f"{otherwise}, or correct the name."


def _users(users: Any) -> list[dict[str, Any]]:
    items = users if isinstance(users, list) else []
    named = [{"name": item} if isinstance(item, str) else item for item in items]
    return [item for item in named if isinstance(item, dict) and item.get("name")]


def _teams(teams: Any) -> dict[str, Mapping[str, Any]]:
    items = teams.items() if isinstance(teams, dict) else ()
    return {str(name): team for name, team in items if isinstance(team, dict)}


def _teams_of(user: Mapping[str, Any], teams: Any) -> list[Mapping[str, Any]]:
    known = _teams(teams)
    return [known[name] for name in _texts(user.get("teams")) if name in known]


def _workspaces(entries: list[Mapping[str, Any]], is_private: Any) -> list[str]:
    """Return what any of these entries gives; where none says anything, all or none."""
    given = [_texts(entry["workspaces"]) for entry in entries if "workspaces" in entry]
    if not given:
        return [] if is_private else [ALL]
    return list(dict.fromkeys(pattern for patterns in given for pattern in patterns))


def _widest(values: Iterable[Any]) -> Any:
    """Return the widest of several limits; None where none is given."""
    given = [value for value in values if isinstance(value, int)]
    return None if not given else 0 if 0 in given else max(given)


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and value for value in values)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "access_refusals": access_refusals,
            "group_limits": group_limits,
            "group_workspaces": group_workspaces,
            "restricts_workspaces": restricts_workspaces,
            "team_members": team_members,
            "user_expiries": user_expiries,
            "user_limits": user_limits,
            "user_names": user_names,
            "user_workspaces": user_workspaces,
        }
