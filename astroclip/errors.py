"""The exceptions of astroclip: each says what is wrong, where, what was expected, and what to do next.

A bad *file* is an error. A bad *galaxy* is data: its row is kept and flagged (`astroclip.schema.EmbedFlag`).
"""


class AstroclipError(Exception):
    """Anything astroclip refuses to do. The command line prints it without a traceback."""

    exit_code = 1


class UsageError(AstroclipError):
    """The call does not make sense: options that exclude each other, an output that exists already."""

    exit_code = 2


class DataError(AstroclipError):
    """A file cannot be used as it is: truncated, missing columns, wrong units, unwritable, disk full."""

    exit_code = 3


class ConfigError(AstroclipError):
    """A configuration has a wrong key, type or value."""

    exit_code = 4


class CheckpointError(AstroclipError):
    """A model cannot be loaded: tensors missing, extra or misshapen, wrong checksum, unsafe pickle."""

    exit_code = 5


class StoppedError(AstroclipError):
    """A run was told to stop by a signal, and has saved what it has: it goes on with ``resume``."""

    exit_code = 130
