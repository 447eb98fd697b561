"""The bundle on disk: a manifest and one ONNX graph per stage."""
