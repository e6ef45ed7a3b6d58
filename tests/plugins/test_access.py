"""Users and teams: who may use what, and what is refused, with the fix."""

import re
from datetime import date
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT, load

access: Any = load("filter", "access")


WORKSPACES = [{"name": "shop", "path": "/srv/shop"}, {"name": "web", "path": "/srv/web"}]
TEAMS = {
    "store": {"workspaces": ["shop", "shop-*"], "requests_per_minute": 60},
    "site": {"workspaces": ["web"], "requests_per_minute": 90, "concurrent_requests": 4},
    "ops": {"workspaces": ["*"], "requests_per_minute": 0, "oidc_groups": ["admins", "leads"]},
    "plain": {"oidc_groups": ["leads", "others"]},
}
USERS = [
    "ci",
    {"name": "ann", "teams": ["store"]},
    {"name": "bob", "teams": ["store", "site"], "workspaces": ["tools"]},
    {"name": "eve", "teams": ["plain"]},
    {"name": "max", "teams": ["ops", "site"], "concurrent_requests": 1},
    {"name": "out", "workspaces": []},
]


def refuse(
    users: Any = ("team",), teams: Any = None, workspaces: Any = WORKSPACES, **changes: Any
) -> list[str]:
    given = {
        "users": list(users) if isinstance(users, tuple) else users,
        "teams": {} if teams is None else teams,
        "user_limits": {},
        "private": False,
        "has_sign_in": False,
        **changes,
    }
    found: list[str] = access.access_refusals(given, workspaces)
    return found


class TestWhoIsInWhichTeam:
    def test_a_team_has_the_users_that_name_it(self) -> None:
        assert access.team_members(
            [*USERS, {"name": "new", "teams": ["none", "ops", "ops"]}], TEAMS
        ) == {
            "store": ["ann", "bob"],
            "site": ["bob", "max"],
            "plain": ["eve"],
            "ops": ["max", "new"],
        }


class TestWhoMayUseWhat:
    def test_a_user_may_use_what_the_entry_and_the_teams_give(self) -> None:
        assert access.user_workspaces(USERS, TEAMS) == {
            "ci": ["*"],
            "ann": ["shop", "shop-*"],
            "bob": ["tools", "shop", "shop-*", "web"],
            "eve": ["*"],
            "max": ["*", "web"],
            "out": [],
        }

    def test_where_workspaces_are_private_whoever_is_given_none_has_none(self) -> None:
        private = access.user_workspaces(USERS, TEAMS, True)
        assert private["ci"] == private["eve"] == private["out"] == []
        assert private["ann"] == ["shop", "shop-*"]
        assert private["max"] == ["*", "web"]

    def test_groups_give_what_their_teams_do(self) -> None:
        assert access.group_workspaces(TEAMS) == {
            "admins": ["*"], "leads": ["*"], "others": ["*"]
        }  # fmt: skip
        assert access.group_workspaces(TEAMS, True) == {
            "admins": ["*"], "leads": ["*"], "others": []
        }  # fmt: skip

    def test_a_key_may_have_a_last_day(self) -> None:
        users = ["a", {"name": "b", "expires": date(2027, 1, 31)}, {"name": "c", "expires": "x"}]
        assert access.user_expiries(users) == {"b": "2027-01-31", "c": "x"}
        assert refuse(users[:2]) == []
        told = "The user c of infbox_users expires on x. Give a day as 2027-01-31."
        assert refuse(users[2:]) == [told]

    def test_limits_are_the_users_own_or_the_widest_of_the_teams(self) -> None:
        assert access.user_limits(USERS, TEAMS, {"ci": {"concurrent_requests": 2}}) == {
            "ci": {"concurrent_requests": 2},
            "ann": {"requests_per_minute": 60},
            "bob": {"requests_per_minute": 90, "concurrent_requests": 4},
            "max": {"requests_per_minute": 0, "concurrent_requests": 1},
        }
        teams = {"t": {"tokens_per_day": 5}, "u": {"tokens_per_day": 9, "tokens_per_minute": 2}}
        users = [{"name": "ann", "teams": ["t", "u"]}, {"name": "bob", "teams": ["t"]}]
        assert access.user_limits(users, teams, {}) == {
            "ann": {"tokens_per_minute": 2, "tokens_per_day": 9},
            "bob": {"tokens_per_day": 5},
        }
        groups = {
            "t": {"oidc_groups": ["g", "h"], "tokens_per_day": 5, "requests_per_minute": 1},
            "u": {"oidc_groups": ["h", "i"], "tokens_per_day": 0},
            "v": {"oidc_groups": ["j"]},
        }
        assert access.group_limits(groups) == {
            "g": {"tokens_per_day": 5}, "h": {"tokens_per_day": 0}, "i": {"tokens_per_day": 0}
        }  # fmt: skip
        assert access.group_limits({"t": 1}) == {}
        gone = {"gone": {"requests_per_minute": 1}}
        assert access.user_limits(["ci"], {}, gone) == gone, "the role refuses it by name"

    @pytest.mark.parametrize(
        ("users", "teams", "private", "restricts"),
        [
            (["team"], {}, False, False),
            (["team"], {}, True, True),
            (["team"], TEAMS, False, False),
            (USERS, TEAMS, False, True),
            ([{"name": "a", "workspaces": ["*"]}], {}, False, False),
            ([{"name": "a", "workspaces": []}], {}, False, True),
            (["a"], {"t": {"workspaces": ["shop"], "oidc_groups": ["g"]}}, False, True),
        ],
    )
    def test_nobody_is_restricted_unless_somebody_is(
        self, users: Any, teams: Any, private: bool, restricts: bool
    ) -> None:
        assert access.restricts_workspaces(users, teams, private) is restricts

    @pytest.mark.parametrize("users", [None, "x", [1], [{}], [{"name": ""}], {"a": 1}])
    def test_what_has_another_form_is_left_to_the_refusals(self, users: Any) -> None:
        assert access.user_names(users) == []
        assert access.user_workspaces(users, "x") == {}
        assert access.user_limits(users, ["x"], None) == {}
        assert access.group_workspaces({"t": 1}) == {}


class TestWhatPasses:
    def test_names_alone(self) -> None:
        assert refuse(["ann", "bob"]) == []

    def test_users_teams_and_patterns(self) -> None:
        assert (
            refuse(
                ["ci", {"name": "ann", "teams": ["store"], "workspaces": ["web", "*"]}],
                {"store": {"workspaces": ["shop", "new-*"], "oidc_groups": ["g"]}},
                has_sign_in=True,
                private=True,
            )
            == []
        )

    def test_nothing_is_asked_where_nothing_is_given(self) -> None:
        assert access.access_refusals({}, WORKSPACES) == []


# What is given, and the whole of what is said.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "users_no_list": (
        {"users": "ann"},
        (
            "infbox_users is not a list of names, or of {name, teams, workspaces}. Write it in this"
            " form."
        ),
    ),
    "teams_no_mapping": (
        {"teams": ["store"]},
        "infbox_teams is not {NAME: {workspaces, …}}. Write it in this form.",
    ),
    "private_text": (
        {"private": "yes"},
        "infbox_workspaces_private is 'yes'. Set it to true or false.",
    ),
    "no_name": (
        {"users": [{"teams": []}]},
        "User 1 of infbox_users has no name. Write a name, or {name: …}.",
    ),
    "a_bad_name": (
        {"users": ["../a"]},
        (
            "The user ../a of infbox_users cannot be the name of a file. Use up to 32 lower-case"
            " letters, digits, dots, hyphens and underscores, a letter or digit first."
        ),
    ),
    "a_user_twice": (
        {"users": ["ann", {"name": "ann", "workspaces": []}]},
        "infbox_users has ann twice. Remove one.",
    ),
    "an_unknown_key": (
        {"users": [{"name": "ann", "workspace": ["shop"]}]},
        (
            "The user ann of infbox_users has workspace. There are name, teams, workspaces,"
            " requests_per_minute, concurrent_requests, tokens_per_minute, tokens_per_day, expires."
        ),
    ),
    "an_unknown_team": (
        {"users": [{"name": "ann", "teams": ["stroe"]}], "teams": {"store": {}}},
        (
            "The user ann of infbox_users is in the team stroe, which is not in infbox_teams."
            " Did you mean store?"
        ),
    ),
    "teams_no_list": (
        {"users": [{"name": "ann", "teams": "store"}]},
        "The user ann of infbox_users has the teams 'store'. Give a list of their names.",
    ),
    "an_unknown_workspace": (
        {"users": [{"name": "ann", "workspaces": ["shpo"]}]},
        (
            "The user ann of infbox_users has the workspace shpo, which is not in"
            " infbox_workspaces. Did you mean shop?"
        ),
    ),
    "of_a_team": (
        {"teams": {"store": {"workspaces": ["zzz"]}}},
        (
            "The team store of infbox_teams has the workspace zzz, which is not in"
            " infbox_workspaces. Add it, or correct the name."
        ),
    ),
    "no_pattern": (
        {"users": [{"name": "ann", "workspaces": ["shop,web"]}]},
        (
            "The user ann of infbox_users has the workspace shop,web, which is not a workspace"
            " name. Use lower-case letters, digits and hyphens, and up to 4 times * for any"
            " characters."
        ),
    ),
    "many_stars": (
        {"users": [{"name": "ann", "workspaces": ["*a*b*c*d*"]}]},
        (
            "The user ann of infbox_users has the workspace *a*b*c*d*, which is not a workspace"
            " name. Use lower-case letters, digits and hyphens, and up to 4 times * for any"
            " characters."
        ),
    ),
    "many_patterns": (
        {"users": [{"name": "ann", "workspaces": ["shop"] * 201}]},
        (
            "The user ann of infbox_users has 201 workspaces and may have 200. Use * to name"
            " several at once."
        ),
    ),
    "workspaces_no_list": (
        {"users": [{"name": "ann", "workspaces": "shop"}]},
        (
            "The user ann of infbox_users has the workspaces 'shop'. Give a list of names, in"
            " which * stands for any characters."
        ),
    ),
    "a_limit": (
        {"users": [{"name": "ann", "requests_per_minute": -1}]},
        (
            "The user ann of infbox_users has requests_per_minute -1. Give a whole number; 0 is any"
            " number."
        ),
    ),
    "a_limit_of_tokens": (
        {"teams": {"store": {"tokens_per_day": "1M"}}},
        (
            "The team store of infbox_teams has tokens_per_day '1M'. Give a whole number; 0 is any"
            " number."
        ),
    ),
    "a_day_of_less_than_a_minute": (
        {"users": [{"name": "ann", "tokens_per_minute": 1000, "tokens_per_day": 999}]},
        (
            "The user ann of infbox_users has tokens_per_day 999 and tokens_per_minute 1000, which"
            " a day could never reach. Make tokens_per_day the larger one, or leave"
            " tokens_per_minute out."
        ),
    ),
    "limits_twice": (
        {
            "users": [{"name": "ann", "requests_per_minute": 1}],
            "user_limits": {"ann": {"requests_per_minute": 2}},
        },
        (
            "The user ann of infbox_users has requests_per_minute, and infbox_user_limits has"
            " ann too. Remove one of the two."
        ),
    ),
    "groups_without_sign_in": (
        {"teams": {"store": {"oidc_groups": ["g"]}}},
        (
            "The team store of infbox_teams has oidc_groups, and infbox_oidc_issuer is not set. Set"
            " that too, or remove them."
        ),
    ),
    "groups_no_list": (
        {"teams": {"store": {"oidc_groups": "g"}}, "has_sign_in": True},
        "The team store of infbox_teams has the oidc_groups 'g'. Give a list of their names.",
    ),
    "a_team_no_mapping": (
        {"teams": {"store": ["shop"]}},
        "The team store of infbox_teams is not {workspaces: [NAME, …]}. Write it in this form.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(case: str) -> None:
    given, told = REFUSED[case]
    assert refuse(**given) == [told]


def test_users_are_read_by_what_knows_their_forms() -> None:
    """An entry of `infbox_users` may be a mapping: who takes it for a name names nobody."""
    files = [
        file for place in ("group_vars", "playbooks") for file in (ROOT / place).rglob("*.yml")
    ]
    # Refuses what has another form, so it is given what was written.
    files.remove(ROOT / "group_vars/all/wiring/preflight.yml")
    read = [
        found
        for file in files
        for found in re.findall(r"_infbox_settings\.users\b(?:\s*\|\s*(\w+))?", file.read_text())
    ]
    assert "user_names" in read
    assert set(read) <= access.FilterModule().filters().keys()
