"""One base for everything efface refuses: a sentence that says what was found, what was expected and what to do."""


class EffaceError(Exception):
    """The work failed or the data was refused; the command line exits with 1."""

    exit_code = 1


class UsageError(EffaceError):
    """The request itself cannot be understood; the command line exits with 2."""

    exit_code = 2


def system_reason(error: OSError) -> str:
    """The system's words for what went wrong, as they stand in a sentence."""
    return (error.strerror or str(error)).lower()
