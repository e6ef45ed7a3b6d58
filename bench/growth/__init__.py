"""How costs grow with files and workspaces: `python -m bench.growth`."""
