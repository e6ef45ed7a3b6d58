"""Each refusal names what is wrong, then the fix."""

from typing import Any, ClassVar

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

refusals = load("filter", "refusals")

THERE = {"exists": True, "is_dir": True}


def paths(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {**THERE, "real": name} for name in names}


def workspace(name: str, path: str) -> dict[str, str]:
    return {"name": name, "path": path}


class TestSettings:
    KNOWN = ("infbox_preset", "infbox_workspaces", "infbox_gpus")

    def refuse(self, *given: str, **effective: Any) -> list[str]:
        found: list[str] = refusals.setting_refusals(
            given,
            self.KNOWN,
            ["infbox_workspaces"],
            {"workspaces": [{}], **effective},
            {"infbox_cards": "infbox_gpus"},
        )
        return found

    def test_a_known_one_passes(self) -> None:
        assert self.refuse("infbox_preset") == []

    def test_a_slip_is_refused_with_the_nearest_name(self) -> None:
        assert self.refuse("infbox_workspace") == [
            "infbox_workspace is not a setting. Did you mean infbox_workspaces?"
        ]

    def test_an_old_name_is_refused_with_the_new_one(self) -> None:
        assert self.refuse("infbox_cards") == [
            "infbox_cards is now named infbox_gpus. Rename it in your inventory."
        ]

    def test_one_like_no_other_is_refused_with_all_names(self) -> None:
        (refusal,) = self.refuse("infbox_qqqqqqqqqqqqqqqqqq")
        assert all(name in refusal for name in self.KNOWN)

    @pytest.mark.parametrize("empty", [None, "", []])
    def test_a_required_one_that_is_not_set_is_refused(self, empty: Any) -> None:
        assert self.refuse(workspaces=empty) == [
            "infbox_workspaces is not set. Set it for this host in your inventory."
        ]


class TestGpus:
    PRESETS: ClassVar[dict[str, Any]] = {"cpu": {"gpus": 0}, "dev24": {"gpus": 1}}
    NOTHING: ClassVar[dict[str, Any]] = {"driver_version": "", "gpus": [], "split": []}
    GPU: ClassVar[dict[str, Any]] = {"name": "NVIDIA L4", "memory_mib": 24564, "count": 1}

    def refuse(
        self, given: Any = None, addresses: tuple[str, ...] = (), preset: str = "auto", **seen: Any
    ) -> list[str]:
        found: list[str] = refusals.gpu_refusals(
            given, addresses, {**self.NOTHING, **seen}, preset, self.PRESETS
        )
        return found

    def test_a_host_without_gpus_passes(self) -> None:
        assert self.refuse() == []

    def test_gpus_that_the_driver_tells_pass(self) -> None:
        assert self.refuse(addresses=("01:00.0",), driver_version="580.1", gpus=[self.GPU]) == []

    def test_gpus_without_a_driver_are_refused(self) -> None:
        (refusal,) = self.refuse(addresses=("0000:01:00.0", "0000:02:00.0"))
        assert refusal.startswith(
            "This host has 2 NVIDIA GPUs (0000:01:00.0, 0000:02:00.0) and nvidia-smi does not"
            " respond. Install the NVIDIA driver"
        )

    def test_gpus_without_a_driver_do_not_matter_to_a_preset_without_gpus(self) -> None:
        assert self.refuse(addresses=("01:00.0",), preset="cpu") == []

    def test_gpus_given_by_hand_stand_for_those_without_a_driver(self) -> None:
        assert self.refuse(given=[self.GPU], addresses=("01:00.0",)) == []

    @pytest.mark.parametrize(
        "given",
        ["A100", {"count": 1}, [{"count": 1}], [{"memory_mib": "80 GB", "count": 1}],
         [{"memory_mib": 81920, "count": True}], [{"memory_mib": 81920, "count": 0}]],
    )  # fmt: skip
    def test_gpus_given_in_another_form_are_refused(self, given: Any) -> None:
        (refusal,) = self.refuse(given=given)
        assert refusal.startswith("infbox_gpus is not a list of GPUs")

    def test_a_gpu_split_by_mig_is_refused(self) -> None:
        (refusal,) = self.refuse(driver_version="580.1", split=["NVIDIA A100"])
        assert refusal.startswith("MIG is enabled on the GPU NVIDIA A100. Disable it")

    def test_output_that_cannot_be_read_is_refused_by_what_is_wrong_with_it(self) -> None:
        (refusal,) = self.refuse(
            addresses=("01:00.0",), gpus=[self.GPU], problems=["it ends before its end"]
        )
        assert refusal.startswith(
            "The output of `nvidia-smi -q -x` cannot be read: it ends before its end. Run it"
        )

    def test_a_driver_that_was_installed_and_is_silent_is_refused_as_such(self) -> None:
        (refusal,) = refusals.gpu_refusals(
            None, ("01:00.0",), self.NOTHING, "auto", self.PRESETS, source="installed"
        )
        assert (
            "the driver is installed, and nvidia-smi does not respond. Reboot the host" in refusal
        )

    @pytest.mark.parametrize("source", ["pci", "unknown"])
    def test_a_driver_that_does_not_answer_is_no_refusal_where_pci_ids_stand_in(
        self, source: str
    ) -> None:
        addresses = ("01:00.0",)
        found = refusals.gpu_refusals(
            None, addresses, self.NOTHING, "auto", self.PRESETS, source=source
        )
        assert found == []

    def test_a_gpu_of_unknown_memory_is_refused(self) -> None:
        gpu = {"name": "NVIDIA GB10", "memory_mib": 0, "count": 1}
        (refusal,) = self.refuse(driver_version="580.1", gpus=[gpu])
        assert refusal == "nvidia-smi does not report the memory of NVIDIA GB10. Set infbox_gpus."


class TestWorkspaces:
    def test_two_good_ones_pass(self) -> None:
        two = [workspace("shop", "/srv/shop"), workspace("shop-2", "/srv/shop-2")]
        assert refusals.workspace_refusals(two, paths("/srv/shop", "/srv/shop-2")) == []

    def test_a_path_that_is_not_there_is_refused(self) -> None:
        seen = {"/srv/shop": {"exists": False, "is_dir": False, "real": "/srv/shop"}}
        (refusal,) = refusals.workspace_refusals([workspace("shop", "/srv/shop")], seen)
        assert refusal.startswith("The path of workspace shop does not exist: /srv/shop. Put")

    def test_a_file_is_refused(self) -> None:
        seen = {"/srv/shop": {"exists": True, "is_dir": False, "real": "/srv/shop"}}
        (refusal,) = refusals.workspace_refusals([workspace("shop", "/srv/shop")], seen)
        assert refusal.startswith("The path of workspace shop is not a directory: /srv/shop.")

    def test_one_that_its_reader_may_not_read_is_refused(self) -> None:
        reader = {"name": "infbox", "hint": "Open it"}
        closed = {"readable": False, "mode": "0750", "group": "devs"}
        seen = {"/srv/a": {**THERE, "real": "/srv/a", **closed}}
        (refusal,) = refusals.workspace_refusals([workspace("shop", "/srv/a")], seen, reader)
        assert refusal == (
            "The user infbox may not read the workspace shop: /srv/a has mode 0750 and group devs."
            " Open it."
        )
        assert refusals.workspace_refusals([workspace("shop", "/srv/a")], seen) == []

    def test_a_relative_path_is_refused(self) -> None:
        (refusal,) = refusals.workspace_refusals([workspace("shop", "srv/shop")], {})
        assert refusal.startswith("The path of workspace shop is relative: srv/shop.")

    def test_a_second_one_of_the_same_name_is_refused(self) -> None:
        two = [workspace("shop", "/srv/a"), workspace("shop", "/srv/b")]
        (refusal,) = refusals.workspace_refusals(two, paths("/srv/a", "/srv/b"))
        assert refusal == "Two workspaces are named shop: /srv/a and /srv/b. Rename one."

    @pytest.mark.parametrize("name", ["Shop", "-shop", "shop@2", "shop 2", "shop\n", "ship/1"])
    def test_a_name_that_cannot_be_part_of_a_model_name_is_refused(self, name: str) -> None:
        (refusal,) = refusals.workspace_refusals([workspace(name, "/srv/a")], paths("/srv/a"))
        assert "cannot be part of a model name" in refusal

    def test_one_inside_another_is_refused_whichever_comes_first(self) -> None:
        two = [workspace("inner", "/srv/shop/lib"), workspace("outer", "/srv/shop")]
        (refusal,) = refusals.workspace_refusals(two, paths("/srv/shop/lib", "/srv/shop"))
        assert refusal.startswith(
            "Workspace inner (/srv/shop/lib) is inside workspace outer (/srv/shop)."
        )

    def test_a_link_into_another_is_refused(self) -> None:
        two = [workspace("outer", "/srv/shop"), workspace("link", "/home/link")]
        seen = {**paths("/srv/shop"), "/home/link": {**THERE, "real": "/srv/shop/lib"}}
        (refusal,) = refusals.workspace_refusals(two, seen)
        assert refusal.startswith("Workspace link (/srv/shop/lib) is inside workspace outer")

    def test_the_same_folder_twice_is_refused_once(self) -> None:
        two = [workspace("a", "/srv/shop"), workspace("b", "/srv/shop")]
        (refusal,) = refusals.workspace_refusals(two, paths("/srv/shop"))
        assert refusal == "Workspaces a and b are the same directory: /srv/shop. Remove one."

    def test_a_neighbour_with_a_longer_name_is_not_inside(self) -> None:
        two = [workspace("a", "/srv/shop"), workspace("b", "/srv/shop2")]
        assert refusals.workspace_refusals(two, paths("/srv/shop", "/srv/shop2")) == []

    @pytest.mark.parametrize(
        "lacking", [{"path": "/srv/a"}, {"name": "a"}, {"name": "", "path": "/"}]
    )
    def test_one_without_name_or_path_is_refused(self, lacking: dict[str, str]) -> None:
        (refusal,) = refusals.workspace_refusals([lacking], paths("/srv/a", "/"))
        assert " has no " in refusal

    @pytest.mark.parametrize("wrong", ["/srv/a", {"shop": "/srv/a"}, ["/srv/a"], None])
    def test_another_form_is_refused_and_has_no_paths(self, wrong: Any) -> None:
        (refusal,) = refusals.workspace_refusals(wrong, {})
        assert refusal.startswith("infbox_workspaces is not a list")
        assert refusals.workspace_paths(wrong) == []


class TestPorts:
    WANTED: ClassVar[dict[str, Any]] = {"port": 8000, "address": "127.0.0.1", "purpose": "vLLM"}
    LISTENER: ClassVar[dict[str, Any]] = {
        "port": 8000, "wildcard": False, "loopback": True, "pid": 42, "process": "python3",
        "unit": "", "ours": False,
    }  # fmt: skip

    def refuse(self, listener: dict[str, Any], **wanted: Any) -> list[str]:
        found: list[str] = refusals.port_refusals(
            [{**self.WANTED, **wanted}], [{**self.LISTENER, **listener}]
        )
        return found

    def test_a_taken_one_is_refused_with_the_process(self) -> None:
        (refusal,) = self.refuse({})
        assert refusal == ("Port 8000 (vLLM) is in use by python3 (pid 42). Stop it.")

    def test_the_unit_is_named(self) -> None:
        (refusal,) = self.refuse({"unit": "nginx.service"})
        assert "python3 (pid 42, nginx.service)" in refusal

    def test_the_setting_that_moves_it_is_named(self) -> None:
        (refusal,) = self.refuse({}, setting="infbox_port")
        assert refusal.endswith("Stop it, or change infbox's port with infbox_port.")

    def test_a_process_that_cannot_be_seen_is_refused_too(self) -> None:
        (refusal,) = self.refuse({"pid": 0, "process": ""})
        assert "a process that cannot be identified" in refusal

    def test_our_own_service_is_no_stranger(self) -> None:
        assert self.refuse({"ours": True}) == []

    def test_a_unit_that_is_moved_off_it_later_is_not_in_the_way(self) -> None:
        freed = ["nvidia-dcgm.service"]
        assert self.refuse({"unit": "nvidia-dcgm.service"}, freed_from=freed) == []
        assert self.refuse({"unit": "other.service"}, freed_from=freed) != []
        assert self.refuse({"unit": "nvidia-dcgm.service"}, freed_from=[]) != []

    @pytest.mark.parametrize(
        ("listener", "address", "clash"),
        [
            ({"wildcard": True, "loopback": False}, "127.0.0.1", True),
            ({"loopback": False}, "127.0.0.1", False),
            ({"loopback": True}, "::", True),
            ({"loopback": True}, "", True),
            ({"loopback": False}, "10.0.0.5", True),
            ({"loopback": True}, "10.0.0.5", False),
            ({"port": 8001}, "127.0.0.1", False),
        ],
    )
    def test_only_an_address_that_we_want_counts(
        self, listener: dict[str, Any], address: str, clash: bool
    ) -> None:
        assert bool(self.refuse(listener, address=address)) is clash

    def test_one_that_two_of_us_want_is_refused(self) -> None:
        (refusal,) = refusals.port_refusals([self.WANTED, {**self.WANTED, "purpose": "Caddy"}], [])
        assert refusal.startswith("Port 8000 is used twice: for vLLM and for Caddy.")


class TestModel:
    GOOD: ClassVar[dict[str, Any]] = {"is_dir": True, "config": True, "weights": True}

    def test_none_and_a_good_one_pass(self) -> None:
        assert refusals.model_refusals("", {}) == []
        assert refusals.model_refusals("/srv/model", self.GOOD) == []

    @pytest.mark.parametrize(
        ("lacking", "words"),
        [
            ({"config": False}, "/srv/model has no config.json. Correct infbox_model_path"),
            ({"weights": False}, "/srv/model has no *.safetensors."),
            ({"config": False, "weights": False}, "no config.json and no *.safetensors."),
            ({"is_dir": False}, "is not a directory on this host: /srv/model."),
        ],
    )
    def test_one_without_a_model_is_refused(self, lacking: dict[str, bool], words: str) -> None:
        (refusal,) = refusals.model_refusals("/srv/model", {**self.GOOD, **lacking})
        assert words in refusal

    def test_a_relative_one_is_refused(self) -> None:
        (refusal,) = refusals.model_refusals("model", self.GOOD)
        assert refusal.startswith("infbox_model_path is relative: model.")


class TestSystem:
    GOOD: ClassVar[dict[str, Any]] = {
        "distribution": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)",
        "architecture": "x86_64", "systemd": True,
    }  # fmt: skip
    PLATFORMS: ClassVar[dict[str, Any]] = yaml.safe_load(
        (ROOT / "roles/preflight/vars/main.yml").read_text(encoding="utf-8")
    )["_preflight_platforms"]

    def refuse(self, **host: Any) -> list[str]:
        found: list[str] = refusals.system_refusals(
            {**self.GOOD, **host}, self.PLATFORMS, ["x86_64"]
        )
        return found

    def test_a_good_one_passes(self) -> None:
        assert self.refuse() == []
        for version in ("22.04", "24.04", "26.04"):
            assert self.refuse(distribution="ubuntu", version=version) == []

    @pytest.mark.parametrize(
        "other", [{"version": "11"}, {"distribution": "fedora"}, {"version": "", "name": ""}]
    )
    def test_another_system_is_refused(self, other: dict[str, str]) -> None:
        (refusal,) = self.refuse(**other)
        assert refusal.endswith("Use one with Debian 12 or 13, Ubuntu 22.04, 24.04 or 26.04.")

    def test_another_architecture_is_refused(self) -> None:
        assert self.refuse(architecture="aarch64") == [
            "This host's architecture is aarch64. Use one with x86_64."
        ]

    def test_a_host_without_systemd_is_refused(self) -> None:
        (refusal,) = self.refuse(systemd=False)
        assert refusal.startswith("This host does not run systemd")


class TestSignIn:
    GOOD: ClassVar[dict[str, Any]] = {
        "issuer": "https://sso.example.org/realms/team", "client_id": "infbox",
        "client_secret": "s", "groups": ["coders"], "scopes": ["openid"],
        "session_hours": 12, "idle_minutes": 60,
    }  # fmt: skip

    @pytest.mark.parametrize("issuer", ["https://a.example/", "http://127.0.0.1:9400", ""])
    def test_one_that_is_whole_passes_and_so_does_none(self, issuer: str) -> None:
        assert refusals.sign_in_refusals({**self.GOOD, "issuer": "https://a.example"}) == []
        assert refusals.sign_in_refusals({**self.GOOD, "issuer": issuer} if issuer else {}) == []

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"issuer": ""}, "infbox_oidc_client_id is set, and infbox_oidc_issuer is not."),
            ({"issuer": "http://sso.example.org"}, "infbox_oidc_issuer is http://sso.example.org."),
            ({"issuer": "https://a.example?x=1"}, "infbox_oidc_issuer is https://a.example?x=1."),
            (
                {"issuer": "sso.example.org"},
                "Write it exactly as the provider states it, beginning with https://",
            ),
            ({"client_id": ""}, "infbox_oidc_client_id is not set. Set it to the id of the client"),
            ({"client_secret": " "}, "infbox_oidc_client_secret is not set. Set it to the secret"),
            ({"groups": []}, "infbox_oidc_groups names no group."),
            ({"groups": "coders"}, "infbox_oidc_groups names no group."),
            ({"groups": [""]}, "infbox_oidc_groups names no group."),
            ({"scopes": ["email"]}, "infbox_oidc_scopes lacks openid."),
            ({"session_hours": 0}, "infbox_oidc_session_hours is 0"),
            ({"idle_minutes": "many"}, "infbox_oidc_idle_minutes is many. Set whole numbers"),
            (
                {"session_hours": 1, "idle_minutes": 61},
                "with idle minutes no longer than the session.",
            ),
        ],
    )
    def test_what_would_let_in_nobody_or_everybody_is_refused(
        self, changes: dict[str, Any], said: str
    ) -> None:
        assert said in refusals.sign_in_refusals({**self.GOOD, **changes})[0]


class TestUsers:
    @pytest.mark.parametrize(
        ("owner", "named"), [(None, None), ("infbox", 64430)], ids=["nobody", "ours"]
    )
    def test_nobody_else_passes(self, owner: str | None, named: int | None) -> None:
        user = {"name": "infbox", "uid": 64430, "owner": owner, "named": named}
        assert refusals.user_refusals([user]) == []

    def test_a_uid_of_somebody_else_is_refused(self) -> None:
        user = {"name": "infbox", "uid": 64430, "owner": "bob", "named": None}
        (refusal,) = refusals.user_refusals([user])
        assert refusal.startswith(
            "The uid 64430, which infbox needs for its user infbox, belongs to the user bob."
        )

    def test_our_name_with_another_uid_is_refused(self) -> None:
        user = {"name": "infbox", "uid": 64430, "owner": None, "named": 1000}
        (refusal,) = refusals.user_refusals([user])
        assert refusal.startswith(
            "The user infbox exists with uid 1000, and infbox needs 64430 for it."
        )


def test_somebody_elses_program_on_a_gpu_is_named_with_what_it_holds() -> None:
    processes = [
        {"pid": 31, "process": "train.py", "unit": "jobs.service", "ours": False},
        {"pid": 32, "process": "vllm", "unit": "", "ours": True},
        {"pid": 33, "process": "jupyter", "unit": "", "ours": False},
    ]
    told = [
        {"processes": [{"pid": 31, "memory_mib": 20000}, {"pid": 32, "memory_mib": 50000}]},
        {"processes": [{"pid": 31, "memory_mib": 1000}, {"pid": 33, "memory_mib": 0}]},
    ]
    first, second = refusals.process_refusals(processes, told, "dev48", 2)
    assert first.startswith(
        "train.py (pid 31, jobs.service) holds 21000 MiB of the GPUs that preset dev48 needs. End"
    )
    assert second.startswith("jupyter (pid 33) uses the GPUs that preset dev48 needs.")
    assert refusals.process_refusals(processes, told, "cpu", 0) == []
