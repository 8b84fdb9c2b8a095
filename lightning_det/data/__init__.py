"""Datasets: reads annotation files into flat arrays, renders views of images, and collates views into batches."""
