"""Measuring packs on the history of a repository."""
