#!/usr/bin/python
"""Documentation of the action plugin of this name, where Ansible looks for it."""

DOCUMENTATION = """
module: query
short_description: Runs a command that only reads
description:
  - Runs a command on the host over the connection, without a module, which takes a quarter of the
    time. It runs in check mode too and never counts as a change, so what it runs must change
    nothing.
  - Its messages are English, whatever language the host speaks. It has no standard input.
  - Where Ansible's pipelining is off, M(ansible.builtin.command) runs the command.
author: infbox
options:
  argv:
    description: The program and its arguments. No shell reads them.
    type: list
    elements: str
    required: true
  chdir:
    description: Directory to run it in.
    type: str
"""

EXAMPLES = """
- name: Gather the state of the Docker service
  infbox.infbox.query:
    argv: [systemctl, show, --property=ActiveState, docker]
  register: __docker_state
"""

RETURN = """
rc:
  description: Exit status. The task fails where it is not 0, unless C(failed_when) says otherwise.
  type: int
  returned: always
stdout:
  description: What the command printed, without the last line's end.
  type: str
  returned: always
stdout_lines:
  description: The same by lines.
  type: list
  returned: always
stderr:
  description: What it complained of.
  type: str
  returned: always
stderr_lines:
  description: The same by lines.
  type: list
  returned: always
cmd:
  description: The program and its arguments.
  type: list
  returned: always
"""
