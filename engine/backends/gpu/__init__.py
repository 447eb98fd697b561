"""Running stages on an NVIDIA GPU: memory, streams, transfers, and ONNX Runtime's CUDA provider."""
