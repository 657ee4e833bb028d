"""The errors that are about files and downloads; everything else raises ValueError or TypeError."""


class FormatError(ValueError):
    """A file is not what it should be: truncated, of another format, with a lying header."""


class IntegrityError(FormatError):
    """A file has the right format, but its bytes are not those that were written."""


class DownloadError(OSError):
    """A data set is neither on disk nor to be had from the network."""
