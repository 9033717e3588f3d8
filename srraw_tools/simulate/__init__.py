"""Simulated zoom sequences: scene, lens and sensor rendered afresh for every focal length."""
