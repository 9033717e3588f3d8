"""What the parts of a training step cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds by part, summed over its uses: `with clock("network"): ...`.

    A GPU works behind the program. So it is waited for before and after every part, unless `wait` is false,
    and then a part's seconds are only those of giving it work.
    """

    def __init__(self, device: torch.device, *, wait: bool = True) -> None:
        self.seconds: dict[str, float] = {}
        self._gpu = device if device.type == "cuda" and wait else None

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = self._now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - started

    def _now(self) -> float:
        if self._gpu is not None:
            torch.cuda.synchronize(self._gpu)
        return time.perf_counter()
