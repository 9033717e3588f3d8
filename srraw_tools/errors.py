"""The one error that is meant for the user: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import errno
from typing import IO, Any

import click


class UserError(click.ClickException):
    """A mistake or a failure that the user can do something about.

    The command line prints it as one sentence and a hint, without a traceback, and exits with 1, or
    with 2 where the command was used wrongly. Every other exception is our bug and keeps its traceback.

    Args:
        message: one sentence that says what is wrong, naming the file or the value.
        hint: what to do about it.
        wrong_use: the request itself was wrong (exit status 2), rather than its execution (1).
    """

    def __init__(self, message: str, hint: str = "", *, wrong_use: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = 2 if wrong_use else 1

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {self}", file=file, err=file is None)


class SystemErrorsTold(click.Command):
    """A command that tells what the operating system refuses, such as a full disk, as a user's error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # a library's own error; a reader that had enough
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise UserError(f"{where}{error.strerror}.", "Look at the disk and the permissions.") from error


class SystemErrorsToldInGroup(SystemErrorsTold, click.Group):
    """The same for a group of commands."""
