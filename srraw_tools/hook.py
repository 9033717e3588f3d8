"""A person's own program, run at the steps of a capture, as the gphoto2 command runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from srraw_tools.errors import UserError


@dataclass(frozen=True)
class Hook:
    """A program that is run with ACTION and ARGUMENT in its environment; none where `script` is None.

    ACTION is init (before the first shot), start, download (with the file as ARGUMENT) or stop. A failing
    init ends the capture before it begins; later nothing is worth losing a shot for, and a failure is told.
    What it prints goes to stderr, or nowhere where it is to be `silent`.
    """

    script: Path | None
    silent: bool = False

    def __call__(self, action: str, argument: Path | None = None) -> str:
        """Run it, and wait.

        Returns:
            What went wrong, one sentence; empty where nothing did.

        Raises:
            UserError: it cannot be run, or it failed at init.
        """
        if self.script is None:
            return ""
        told_to = subprocess.DEVNULL if self.silent or sys.stderr is None else sys.stderr.fileno()
        told = {"ACTION": action, "ARGUMENT": str(argument) if argument else ""}
        try:
            status = subprocess.run(
                [self.script.absolute()],
                env=os.environ | told,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=told_to,
                stderr=told_to,
            ).returncode
            problem = f"ended with status {status}" if status else ""
        except OSError as error:
            problem = f"cannot be run: {error.strerror}"
        if not problem:
            return ""
        if action == "init":
            raise UserError(
                f"The hook {self.script} {problem}.",
                "Make it executable (chmod +x), or mend it.",
                wrong_use=True,
            )
        return f"The hook {self.script} {problem} at {action}."
