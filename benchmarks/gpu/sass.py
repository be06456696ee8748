"""What the machine code of a kernel says about its loops."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?);")
_TARGET = re.compile(r"(0x[0-9a-f]+)")
# Groups of instructions, by their first word.
GROUPS = {
    "matrix": ("HGMMA", "HMMA", "UTCHMMA", "UTCMMA", "UTCQMMA"),
    "mufu": ("MUFU",),
    "barriers": ("BAR", "WARPSYNC"),
    "local": ("LDL", "STL"),
    "async": ("LDGSTS", "UTMALDG", "UBLKCP"),
}
SHORTEST = 16  # instructions of a loop that counts: shorter ones wait for something


@dataclass(frozen=True)
class Loop:
    """The loop of a kernel that does most of its products.

    Attributes:
        instructions: of an iteration, each once.
        counts: of these, by group, see GROUPS.
        inner: instructions of the loops inside, each once.
    """

    instructions: int
    counts: dict[str, int]
    inner: int


def hottest(text: str) -> Loop | None:
    """Of disassembled code: the innermost loop with the most matrix instructions, or without any the longest one."""
    code = [(int(at, 16), word, rest) for at, word, rest in _INSTRUCTION.findall(text)]
    index = {at: i for i, (at, _, _) in enumerate(code)}
    loops = set()
    for i, (at, word, rest) in enumerate(code):
        target = _TARGET.search(rest)
        if word.startswith("BRA") and target:
            start = index.get(int(target.group(1), 16), i)
            if int(target.group(1), 16) <= at and i - start >= SHORTEST:
                loops.add((start, i))
    if not loops:
        return None

    def counted(loop: tuple[int, int]) -> Counter[str]:
        words = [word.split(".")[0] for _, word, _ in code[loop[0] : loop[1] + 1]]
        return Counter(group for word in words for group, members in GROUPS.items() if word in members)

    def innermost(some: set[tuple[int, int]]) -> set[tuple[int, int]]:
        return {
            one
            for one in some
            if not any(one != two and one[0] <= two[0] and two[1] <= one[1] for two in some)
        }

    products = {loop: counted(loop)["matrix"] for loop in loops}
    multiplying = innermost({loop for loop in loops if products[loop]})
    best = (
        max(multiplying, key=products.__getitem__)
        if multiplying
        else max(loops, key=lambda loop: loop[1] - loop[0])
    )
    inside = innermost({loop for loop in loops if best[0] <= loop[0] and loop[1] <= best[1] and loop != best})
    counts = counted(best)
    return Loop(
        best[1] - best[0] + 1,
        {group: counts[group] for group in GROUPS},
        sum(last - first + 1 for first, last in inside),
    )
