#!/usr/bin/python
"""Documentation of the action plugin of this name, where Ansible looks for it."""

DOCUMENTATION = """
module: files
short_description: Makes files, directories and links as a role wants them
description:
  - Asks the host once for the state of all of them, and runs M(ansible.builtin.file) and
    M(ansible.builtin.copy) for those that differ, in the task's order, directories first and
    links last.
  - Has check mode and differences as these two have them.
  - Not for secrets. The host's answer has checksums, which a debugging run prints.
author: infbox
options:
  directories:
    description:
      - Directories. Each stands after the one that it is in, since what is made on the way to
        another gets that one's permissions.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the host.
        type: str
      paths:
        description: Several of them, in place of C(path).
        type: list
        elements: str
      mode:
        description: Permissions, octal, as text.
        type: str
        required: true
      owner:
        description: User, by name or number.
        type: str
        default: root
      group:
        description: Group, by name or number.
        type: str
        default: root
  files:
    description: Files. Their directories are there already, or are among O(directories).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the host.
        type: str
      content:
        description: What the file at C(path) holds.
        type: str
      contents:
        description: What several files hold, by path, in place of C(path) and C(content).
        type: dict
      validate:
        description: Command that says whether C(%s), a file with the content, is valid.
        type: str
      mode:
        description: Permissions, octal, as text.
        type: str
        required: true
      owner:
        description: User, by name or number.
        type: str
        default: root
      group:
        description: Group, by name or number.
        type: str
        default: root
  links:
    description:
      - Symbolic links. What one leads to must be there, but in check mode. One that leads elsewhere
        is changed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the host.
        type: str
        required: true
      target:
        description: Where it leads.
        type: str
        required: true
      owner:
        description: User of the link itself, by name or number.
        type: str
        default: root
      group:
        description: Group of the link itself, by name or number.
        type: str
        default: root
"""

EXAMPLES = """
- name: Render the compose fragment
  infbox.infbox.files:
    directories:
      - {path: /var/lib/example/compose, mode: "0755"}
    files:
      - path: /var/lib/example/compose/example.yml
        content: "{{ lookup('ansible.builtin.template', 'compose.yml.j2') }}"
        mode: "0644"
"""

RETURN = """
existing:
  description: Paths that were on the host before, of whatever type.
  returned: success
  type: list
  elements: str
changed_paths:
  description: Paths that were made or changed.
  returned: success
  type: list
  elements: str
"""
