"""Space-time video super-resolution, deployed: 4x the resolution, 2x the frame rate.

In a pipeline of your own:

    from zsm import engine

    with engine.Runtime("bundle") as rt:
        frames = rt(clip)  # (N,H,W,3) -> (2N-1,4H,4W,3)
"""

from zsm.errors import Error

__version__ = "0.1.0"
__all__ = ["Error", "__version__"]
