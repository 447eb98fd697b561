"""Every exception that zsm raises on purpose.

Each derives from `Error` and from the built-in exception that Python code would catch:

    Error
    ├── ArgumentError (ValueError)
    │   ├── FrameError
    │   ├── WindowError
    │   ├── SizeError
    │   └── TileError
    ├── ArgumentTypeError (TypeError)
    ├── BundleError (ValueError)
    ├── BackendError (RuntimeError)
    │   ├── OutOfMemoryError (MemoryError)
    │   └── PluginError
    ├── CacheError (OSError)
    ├── ClusterError (RuntimeError)
    ├── VideoError (ValueError)
    │   └── StoppedError
    ├── DataError (ValueError)
    ├── OutputError (OSError)
    └── TrainingError (RuntimeError)
"""


class Error(Exception):
    """Base class. The message says what was wrong, with the value, and what to do about it.

    The command line prints the message without a traceback and exits with status 1.
    """


class ArgumentError(Error, ValueError):
    """An argument, option or setting has an invalid value."""


class FrameError(ArgumentError):
    """A frame or clip has an unsupported shape or dtype, or differs from the frames before it."""


class WindowError(ArgumentError):
    """A window, overlap or scene cut is invalid."""


class SizeError(ArgumentError):
    """A size can't be parsed, or lies outside the supported range."""


class TileError(ArgumentError):
    """A tile size is invalid."""


class ArgumentTypeError(Error, TypeError):
    """An argument has the wrong type."""


class BundleError(Error, ValueError):
    """A folder isn't a bundle, is damaged, or was written in a newer format."""


class BackendError(Error, RuntimeError):
    """A device or backend is unknown, missing or failed."""


class OutOfMemoryError(BackendError, MemoryError):
    """A device doesn't have enough free memory."""


class PluginError(BackendError):
    """The native library is missing, or can't be loaded."""


class CacheError(Error, OSError):
    """The cache folder can't be read or written."""


class ClusterError(Error, RuntimeError):
    """A cluster can't be reached, has no room for a task, or lost one for good."""


class VideoError(Error, ValueError):
    """A video, image or encoding option can't be used."""


class StoppedError(VideoError):
    """A run stopped because it was asked to; the message says how to resume it."""


class DataError(Error, ValueError):
    """A data set, checkpoint or weights file can't be used."""


class OutputError(Error, OSError):
    """An output file or folder can't be written."""


class TrainingError(Error, RuntimeError):
    """A training run can't go on."""
