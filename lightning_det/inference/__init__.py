"""A detector at work on images from anywhere: reading them, detecting, and the detections of an image."""
