"""Errors, files and signals: what every command needs of the operating system."""
