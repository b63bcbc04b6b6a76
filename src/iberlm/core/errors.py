"""The exceptions of IberLM: one tree, each with the exit status that the command line ends with.

A message says what is wrong, which value, which choices there are, and how to mend it; the command line prints it
without a traceback. Anything that is not an `IberlmError` is a defect of ours and keeps its traceback.
"""


class IberlmError(Exception):
    """Base of all errors that a user can act on."""

    exit_status = 1


class ConfigError(IberlmError):
    """A recipe or an override is wrong: the key, the value and the choices are in the message."""

    exit_status = 2


class CardError(IberlmError):
    """A data card is missing, invalid, or forbids the use that was asked for."""

    exit_status = 3


class DataError(IberlmError):
    """Input data cannot be used: empty, unreadable, or nothing left after filters."""

    exit_status = 4


class CorruptError(IberlmError):
    """A file that IberLM wrote is damaged: cut short, checksum mismatch, or disagreeing with its neighbours."""

    exit_status = 5


class ResourceError(IberlmError):
    """The machine cannot do it: disk full, a worker killed, a program missing, a folder in use."""

    exit_status = 6
