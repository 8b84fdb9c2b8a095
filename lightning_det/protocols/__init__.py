"""Types that packages share: batches, detections, and the interfaces of detectors and selectors."""
