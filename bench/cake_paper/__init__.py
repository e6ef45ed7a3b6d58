"""Cake's decisions in a simulation, beside the figures of its paper."""
