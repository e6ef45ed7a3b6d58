#!/usr/bin/python
"""Documentation of the action plugin of this name, where Ansible looks for it."""

DOCUMENTATION = """
module: unit
short_description: Makes a service active, enabled and no older than its files
description:
  - Asks the host once for a unit's state and the times of its files. Only where it is not active,
    not enabled or older than one of them, runs M(ansible.builtin.systemd_service), which restarts
    it.
  - It asks the host and not the run, so a run that was interrupted after a file changed is
    completed by the next one.
author: infbox
options:
  name:
    description: Name of a service's unit.
    type: str
    required: true
  files:
    description:
      - Absolute paths of what the service reads at its start, its unit file among them. Of a
        directory all that is below it counts, of a link the link. What is not there is not newer.
    type: list
    elements: str
    required: true
"""

EXAMPLES = """
- name: Ensure that the service runs with its current files
  infbox.infbox.unit:
    name: example.service
    files: [/etc/example.yml, /etc/systemd/system/example.service]
"""

RETURN = """
"""
