"""Evaluates detections: results, COCO's figures, and the comparison of runs."""
