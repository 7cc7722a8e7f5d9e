"""Which attempts of a webhook are under way, and how many more may begin: so many at a time, but for those that hang.

A receiver that has much to do answers late, but one request after the other, about in their order. So an attempt hangs
where nothing that began before it was answered for a while; it gives up its place, and others go on. A receiver that
answers nothing for so long, a part of its timeout, could not answer in time what is sent to it at a time either.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Attempts at a time, and how many of them may be of what failed before: what did not always finds a place sooner.
AT_ONCE: Final = 32
AGAIN_AT_ONCE: Final = AT_ONCE // 2
#: Attempts that may hang beside them, half of these of what failed before.
MOST_HANGING: Final = 1_000


class Attempt:
    """One subject's place. ``again``: for what failed before."""

    __slots__ = ("again", "began", "hangs", "number", "subject", "waits")

    def __init__(self, subject: str, again: bool) -> None:
        self.subject = subject
        self.again = again
        #: when its request began, s, as which one, and whether it waits for the answer
        self.began = 0.0
        self.number = 0
        self.waits = False
        #: it has given up its place
        self.hangs = False


class Attempts:
    """Counts them.

    Args:
        patience: for how long nothing is answered that began before an attempt that hangs, s.
        most_hanging: how many may hang at a time.
    """

    def __init__(self, patience: float, most_hanging: int = MOST_HANGING) -> None:
        self._patience = patience
        self._most_hanging = most_hanging
        self._requests = 0
        #: by the number of their request: those that take a place, in the order in which they began
        self._placed: dict[int, Attempt] = {}
        self._placed_again = 0
        self.hanging = 0
        self._hanging_again = 0
        #: when requests were answered, and their numbers: those after which no earlier one was
        self._answered: deque[tuple[float, int]] = deque()

    def has_place(self, again: bool = False) -> bool:
        """Return whether one more may begin."""
        return len(self._placed) < AT_ONCE and not (again and self._placed_again >= AGAIN_AT_ONCE)

    def begin(self, subject: str, again: bool, now: float) -> Attempt:
        """Give a subject a place."""
        attempt = Attempt(subject, again)
        self._place(attempt, now)
        return attempt

    def begin_request(self, attempt: Attempt, now: float) -> None:
        """The subject's next request begins; where the one before it hung, it takes a place again."""
        self.end(attempt)
        self._place(attempt, now)
        attempt.waits = True

    def end_request(self, attempt: Attempt, answered: bool, now: float) -> None:
        """It is over. ``answered``: by the receiver, whatever it said."""
        attempt.waits = False
        if not answered:
            return
        while self._answered and self._answered[-1][1] >= attempt.number:
            self._answered.pop()
        self._answered.append((now, attempt.number))
        self._forget(now)

    def end(self, attempt: Attempt) -> None:
        """Free its place."""
        if attempt.hangs:
            attempt.hangs = False
            self.hanging -= 1
            self._hanging_again -= attempt.again
        else:
            del self._placed[attempt.number]
            self._placed_again -= attempt.again

    def set_aside(self, now: float) -> list[Attempt]:
        """Return those that hang and did not when this was asked last. They have given up their places."""
        self._forget(now)
        first_answered = self._answered[0][1] if self._answered else self._requests + 1
        found: list[Attempt] = []
        for attempt in list(self._placed.values()):
            if not self._may_hang(attempt):
                continue
            if attempt.began > now - self._patience or attempt.number > first_answered:
                break
            self.end(attempt)
            attempt.hangs = True
            self.hanging += 1
            self._hanging_again += attempt.again
            found.append(attempt)
        return found

    def next_in(self, now: float) -> float:
        """Return in how many s one hangs at the earliest, at least 1 ms."""
        oldest = next(filter(self._may_hang, self._placed.values()), None)
        if oldest is None:
            return self._patience
        answered_at = next((at for at, number in reversed(self._answered) if number < oldest.number), oldest.began)
        return max(0.001, max(oldest.began, answered_at) + self._patience - now)

    def _may_hang(self, attempt: Attempt) -> bool:
        if self.hanging >= self._most_hanging or not attempt.waits:
            return False
        return not (attempt.again and self._hanging_again >= self._most_hanging // 2)

    def _place(self, attempt: Attempt, now: float) -> None:
        self._requests += 1
        attempt.number, attempt.began = self._requests, now
        self._placed[attempt.number] = attempt
        self._placed_again += attempt.again

    def _forget(self, now: float) -> None:
        while self._answered and self._answered[0][0] <= now - self._patience:
            self._answered.popleft()
