"""Puts models into a folder of the host, each whole and verified or not at all.

Downloading and making models runs in the engine image, which has the hub's client and transformers.
What only looks (`list`, `prune`, `follow`) needs nothing but Python and runs on the host itself.
"""
