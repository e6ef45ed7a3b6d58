"""How many hosts for how many developers, by simulation: `python -m bench.scale`."""
