"""From a network in PyTorch to a bundle of ONNX graphs."""
