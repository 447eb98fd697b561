"""zsm inside other programs: a VapourSynth filter, a Triton model. Each module needs its program installed."""
