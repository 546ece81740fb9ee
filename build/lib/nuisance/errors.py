"""Errors that a user can mend: one sentence that says what is wrong and how to mend it."""


class InputError(Exception):
    """Something given from outside (a parameter, a file, a device) cannot be used.

    Raised with one sentence that names the thing and the mend. In a notebook only
    that sentence is shown: the traceback would bury it, and the mend is never in our frames.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ParameterError(InputError, ValueError):
    """A parameter is unknown, of the wrong type, or outside its range."""


class DataError(InputError):
    """A data file is missing, damaged, or not what its checksum says."""
