"""Where torch computes."""

from __future__ import annotations

import torch

from srraw_tools.errors import UserError


def chosen_device(name: str | None) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1"; for None a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise UserError(f"There is no device '{name}' here.", "Give cpu or cuda.", wrong_use=True) from error
    return device
