"""Errors a user can act on: one line that says what was expected, what was found, where, and how to repair it.

>>> print(DataError("9216 pixels", got=9000, where="datacube_A.parquet, cut_r, row 7", repair="set data.images.size"))
expected 9216 pixels, got 9000 (datacube_A.parquet, cut_r, row 7); to repair: set data.images.size
"""

from __future__ import annotations

import re

# C0 and C1 controls, and the marks that turn the direction of writing round: a file's text must not steer a terminal.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """``text`` with what would steer a terminal written out; line ends and tabs stay.

    >>> printable("run \\x1b[31mred\\x07"), printable(7)
    ('run \\\\x1b[31mred\\\\x07', '7')
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class UserError(ValueError):
    """Something outside the program is wrong; the entry scripts print it as one line and exit with code 1."""

    def __init__(self, expected: str, *, got: object = None, where: object = None, repair: str | None = None) -> None:
        message = f"expected {expected}"
        if got is not None:
            message += f", got {got}"
        if where is not None:
            message += f" ({where})"
        if repair is not None:
            message += f"; to repair: {repair}"
        super().__init__(_one_line(message))

    @classmethod
    def plain(cls, message: str) -> UserError:
        """A message that does not fit the 'expected, got' form (still one line)."""
        # The constructor of the base class that C code has chosen: OSError's, for a file that is not there.
        error = OSError.__new__(cls) if issubclass(cls, OSError) else cls.__new__(cls)
        ValueError.__init__(error, _one_line(message))
        return error

    def __reduce__(self) -> tuple:
        """Errors come back from the processes of a sweep with their message as it is."""
        return type(self).plain, (str(self),)


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))


class ConfigError(UserError):
    """A configuration key, value or combination that cannot work."""


class DataError(UserError):
    """A datacube, or a part of one, that cannot be used as it is."""


class ArtifactError(UserError):
    """A tokenizer, token file, checkpoint or run directory that is damaged or does not belong to its inputs."""


class ArtifactMissingError(ArtifactError, FileNotFoundError):
    """An input that an earlier stage should have written; the message names the command that writes it."""


class UnsafeFileError(ArtifactError):
    """A file that holds something else than plain arrays and would need code to be executed to be read."""


class TrainingError(UserError):
    """Training cannot go on (a loss that is not finite, no memory left)."""
