"""The package in Python: trained detectors on images, and parts of a training, without a command."""
