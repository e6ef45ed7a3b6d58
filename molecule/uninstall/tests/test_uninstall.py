"""The uninstall role on a lab host that had packages, settings and a container of its own.

What a whole deployment leaves behind is compared in tests/system.
"""

from testinfra.host import Host

from tests.rerun import converge


def test_containers_units_and_users_of_ours_are_gone(host: Host) -> None:
    assert host.check_output("docker ps --all --format '{{.Names}}'") == "theirs"
    assert host.run("systemctl list-unit-files --no-legend 'infbox-*'").stdout == ""
    assert not host.user("infbox").exists
    assert not host.group("infbox").exists
    assert host.run("docker image inspect ours:1").failed


def test_what_others_run_here_goes_on(host: Host) -> None:
    assert host.check_output("docker inspect --format '{{.State.Running}}' theirs") == "true"
    assert host.package("docker.io").is_installed


def test_only_packages_that_came_with_us_are_gone(host: Host) -> None:
    assert not host.package("bc").is_installed
    assert host.package("wget").is_installed
    assert host.user("daemon").exists


def test_files_that_were_changed_hold_what_they_held(host: Host) -> None:
    assert "1m" in host.file("/etc/docker/daemon.json").content_string
    assert not host.file("/etc/docker/seccomp.json").exists
    assert not host.file("/etc/sysctl.d/60-infbox-watcher.conf").exists


def test_an_authority_of_ours_is_trusted_no_more(host: Host) -> None:
    assert host.check_output("find /etc/ssl/certs -name '*infbox*'") == ""


def test_the_data_is_kept_for_a_later_run(host: Host) -> None:
    assert host.file("/etc/infbox/secrets/key").exists
    assert host.file("/var/lib/infbox/models/weights").exists
    assert host.check_output("ls /etc/infbox") == "secrets"
    assert not host.file("/opt/infbox").exists


def test_without_confirmation_it_only_says_what_it_would_do(host: Host) -> None:
    status, said = converge(uninstall_confirmed=False, uninstall_data="remove")
    assert status == 0
    assert "would be removed" in said
    assert "-e infbox_uninstall_confirmed=true uninstalls" in said
    assert host.file("/etc/infbox/secrets/key").exists


def test_folders_that_are_not_ours_are_refused(host: Host) -> None:
    status, said = converge(uninstall_data="remove", uninstall_data_directories=["/var"])
    assert status != 0
    assert "Name directories of infbox by their whole path" in said
    assert host.file("/var/lib/infbox").exists


def test_the_data_goes_where_that_is_asked_for(host: Host) -> None:
    status, said = converge(uninstall_data="remove")
    assert status == 0, said
    assert (
        host.check_output("find / -xdev -name '*infbox*' -not -path '/proc/*' -not -path '/tmp/*'")
        == ""
    )


def test_a_host_that_was_not_noted_keeps_its_packages(host: Host) -> None:
    status, said = converge()
    assert status == 0
    assert "no record says" in said
    assert host.package("wget").is_installed
