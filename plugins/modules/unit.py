#!/usr/bin/python
"""Documentation of the action plugin of this name, where Ansible looks for it."""

DOCUMENTATION = """
module: unit
short_description: Makes a unit active, enabled and no older than its files
description:
  - Asks the host once for a unit's state and the times of its files. Only where it is not active,
    not enabled or older than one of them, runs M(ansible.builtin.systemd_service), which restarts
    it. A static unit counts as enabled.
  - A service is as old as its program, another unit, such as a timer, as its being active. Where
    such a unit is restarted, systemd also loads the text of the service that it starts.
  - It asks the host and not the run, so a run that was interrupted after a file changed is
    completed by the next one.
author: infbox
options:
  name:
    description: Name of the unit, with its type.
    type: str
    required: true
  files:
    description:
      - Absolute paths of what the unit reads at its start, its unit file among them. Of a
        directory all that is below it counts, of a link the link. What is not there is not newer.
    type: list
    elements: str
    default: []
  started:
    description:
      - Whether the unit is to run now, by its current files. Without it, systemd is to know the
        unit's current text and to start it at boot, and what runs is left alone.
    type: bool
    default: true
"""

EXAMPLES = """
- name: Ensure that the service runs with its current files
  infbox.infbox.unit:
    name: example.service
    files: [/etc/example.yml, /etc/systemd/system/example.service]

- name: Ensure that the timer runs with its current files
  infbox.infbox.unit:
    name: example.timer
    files: [/etc/systemd/system/example.service, /etc/systemd/system/example.timer]

- name: Ensure that boots set up the devices
  infbox.infbox.unit:
    name: example-devices.service
    started: false
"""

RETURN = """
"""
