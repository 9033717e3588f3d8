"""Pages of the documentation, as its tests read them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
AT_THE_ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in AT_THE_ROOT), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<mark>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL)
REMARK = re.compile(r"<!-- (with|run with|ends with|not run): (.+?) -->")
REMARKS_BEFORE = re.compile(rf"(?:{REMARK.pattern}\s*)+\Z")


@dataclass
class Block:
    """A fenced block, and what the comments right before it say.

    Attributes:
        needs: files and folders that have to be there (`with: NAME, NAME`).
        added: words that a command begins with, and options added to it (`run with: COMMAND --option ...`).
        status: with which its last command ends (`ends with: STATUS, REASON`).
        not_run: why it is not run (`not run: REASON`).
    """

    page: str
    line: int
    language: str
    text: str
    needs: list[str] = field(default_factory=list)
    added: list[tuple[list[str], list[str]]] = field(default_factory=list)
    status: int = 0
    not_run: str | None = None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for fence in FENCE.finditer(text):
        before = text[: fence.start()]
        block = Block(name_of(page), before.count("\n") + 1, fence["language"], fence["text"])
        remarks = REMARKS_BEFORE.search(before)
        for kind, said in REMARK.findall(remarks[0]) if remarks else ():
            if kind == "with":
                block.needs += [name.strip() for name in said.split(",")]
            elif kind == "run with":
                command, dash, options = said.partition(" -")
                block.added.append((command.split(), shlex.split((dash + options).strip())))
            elif kind == "ends with":
                block.status = int(said.partition(",")[0])
            else:
                block.not_run = said
        blocks.append(block)
    return blocks


def prose_of(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL)
