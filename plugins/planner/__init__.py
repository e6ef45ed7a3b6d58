"""Says whether a model fits a host, why, and what would make it fit. Knows nothing of Ansible."""

from plugins.planner.errors import PlanError
from plugins.planner.gpu_groups import GpuGroup
from plugins.planner.layers import Layers
from plugins.planner.memory import Batch
from plugins.planner.model import Model, read_config
from plugins.planner.plan import Engine, Host, Plan, plan
from plugins.planner.weights import index_bytes

__all__ = [
    "Batch",
    "Engine",
    "GpuGroup",
    "Host",
    "Layers",
    "Model",
    "Plan",
    "PlanError",
    "index_bytes",
    "plan",
    "read_config",
]
