"""Where torch computes."""

from __future__ import annotations

import torch

from srraw_tools.errors import UserError


def chosen_device(name: str | None) -> torch.device:
    """The device of a name, "cpu", "cuda" or "cuda:1"; for None a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if name not in here:
        raise UserError(
            f"There is no device '{name}' here; torch finds {', '.join(here)}.",
            "Give one of these, or leave --device out.",
            wrong_use=True,
        )
    return torch.device(name)
