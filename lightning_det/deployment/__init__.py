"""Detectors as graphs for other runtimes."""
