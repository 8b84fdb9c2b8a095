"""Export of detectors as ONNX graphs for other runtimes."""
