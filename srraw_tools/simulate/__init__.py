"""Simulated zoom sequences: a scene, a zoom lens, a sensor, DNG files, and the truth about their geometry."""
