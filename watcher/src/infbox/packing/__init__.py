"""Packs: from the index of a workspace to the text in front of each question."""
