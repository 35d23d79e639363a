"""The cached step and its front end as ONNX graphs, made in NumPy and without torch. Needs the package onnx."""
