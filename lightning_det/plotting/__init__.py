"""Draws pictures: boxes on images, and curves."""
