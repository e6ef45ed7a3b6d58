"""An action that writes what the variables and templates of the role at hand come to."""

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):  # type: ignore[misc]
    """What Ansible looks for."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Evaluate everything, one by one, and write it as JSON."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        role = Path(variables["role_path"])
        folder = Path(variables["infbox_dump_folder"]) / variables["inventory_hostname"]
        folder.mkdir(parents=True, exist_ok=True)
        only = variables["infbox_dump_only"]
        names = [name for name in _names(role, variables) if only is None or name in only]
        values = {name: self._value(f"{{{{ {name} }}}}") for name in names}
        for template in sorted(role.glob("templates/*.j2")):
            values[template.name] = self._value(
                f"{{{{ lookup('ansible.builtin.template', '{template.name}') }}}}"
            )
        (folder / f"{role.name}.json").write_text(json.dumps(values, default=str))
        shared = [
            name for name in variables
            if name.lstrip("_").startswith("infbox_") and (only is None or name in only)
        ]  # fmt: skip
        if shared and not (folder / "group_vars.json").exists():
            values = {name: self._value(f"{{{{ {name} }}}}") for name in sorted(shared)}
            (folder / "group_vars.json").write_text(json.dumps(values, default=str))
        return {"changed": False}

    def _value(self, text: str) -> Any:
        try:
            return json.loads(
                json.dumps(self._templar.template(trust_as_template(text)), default=str)
            )
        except Exception as error:  # noqa: BLE001
            return f"CANNOT BE EVALUATED: {error}"


def _names(role: Path, variables: dict[str, Any]) -> list[str]:
    """Return the names of a role's variables, its own and those that it is told."""
    own = set()
    for file in (*role.glob("defaults/main.yml"), *role.glob("vars/main.yml")):
        own |= set(yaml.load(file.read_text(), Loader=_Loader) or {})  # noqa: S506
    return sorted(own | {name for name in variables if name.startswith(f"{role.name}_")})


class _Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as what they stand on."""


def _unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_constructor("!unsafe", _unsafe)
