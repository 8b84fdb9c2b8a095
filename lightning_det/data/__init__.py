"""Datasets: annotation files to flat arrays, images to views, views to batches."""
