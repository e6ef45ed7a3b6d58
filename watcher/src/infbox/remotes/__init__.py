"""Workspaces that follow a git remote."""
