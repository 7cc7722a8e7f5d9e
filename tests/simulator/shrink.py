"""A smaller plan that breaks the same rule: steps are left out, many at first, one at a time in the end."""

from __future__ import annotations

from collections.abc import Callable

from .plan import Plan


def shrink(plan: Plan, breaks: Callable[[Plan], bool], runs: int) -> tuple[Plan, list[int]]:
    """Return a plan with fewer steps that still breaks the rule, and the numbers of its steps in ``plan``.

    Args:
        breaks: runs a plan and says whether the rule is broken.
        runs: how many runs it may take.
    """
    kept = list(range(len(plan.steps)))
    size = max(1, len(kept) // 2)
    left = runs
    while left > 0:
        removed = False
        at = 0
        while at < len(kept) and left > 0:
            fewer = kept[:at] + kept[at + size :]
            left -= 1
            if breaks(plan.keeping(frozenset(fewer))):
                kept, removed = fewer, True
            else:
                at += size
        if size > 1:
            size //= 2
        elif not removed:
            break
    return plan.keeping(frozenset(kept)), kept
