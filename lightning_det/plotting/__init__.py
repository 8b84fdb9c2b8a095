"""Pictures: boxes on images and curves."""
