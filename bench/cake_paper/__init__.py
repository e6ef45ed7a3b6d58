"""Cake's decisions in a simulation, beside the figures of its paper."""

import sys
from pathlib import Path

# Installed in the engine's image alone.
sys.path.append(str(Path(__file__).parents[2] / "cake/src"))
