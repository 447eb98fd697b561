"""What can go wrong with a video, and what was put up with."""

from zsm.errors import Error


class VideoError(Error):
    """A video, image or option that can't be used; the message says why and what to do."""


class StoppedError(VideoError):
    """The job was asked to stop and did, after the segment it was in; the message says how to continue."""
