"""The `trtexec` command that builds and times a stage as `zsm build` would."""

import shlex

from zsm.engine.backends.tensorrt.build import engine_stages, profile_shapes
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import SizeRange
from zsm.errors import BundleError
from zsm.plugins import library
from zsm.plugins.operator import NAME


def commands(bundle: Bundle, sizes: SizeRange) -> dict[str, str]:
    """The command for each stage that becomes an engine. Raises BundleError for a portable bundle.

    TensorRT 10 needs `--stronglyTyped`, 11 has it by default. `--dynamicPlugins` asks the library for its plugins;
    `--staticPlugins` wouldn't.
    """
    if bundle.manifest.portable:
        raise BundleError(
            f"{bundle.path} was exported with --portable: trtexec would use the functions in its files instead of "
            "the plugin; export it without --portable"
        )
    return {stage: _command(bundle, stage, sizes) for stage in engine_stages(bundle.manifest)}


def _command(bundle: Bundle, stage: str, sizes: SizeRange) -> str:
    shapes = profile_shapes(bundle.manifest, stage, sizes)
    arguments = ["trtexec", f"--onnx={bundle.path / bundle.stage(stage).file}", "--stronglyTyped", "--noTF32"]
    for number, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        texts = (f"{name}:{'x'.join(map(str, each[number]))}" for name, each in shapes.items())
        arguments.append(f"--{option}={','.join(texts)}")
    if NAME.encode() in bundle.read(stage):
        arguments.append(f"--dynamicPlugins={_plugin()}")
    arguments.append(f"--saveEngine={stage}.engine")
    return shlex.join(arguments)


def _plugin() -> str:
    """The newest plugin library that is installed, else its usual name."""
    found = (library(name) for name in ("tensorrt11", "tensorrt10"))
    return str(next((path for path in found if path is not None), "libzsm_tensorrt11.so"))
