"""`pushserver.server.waiting`, held against a list of what waits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.server.waiting import Mark, WaitingFrames

marks = st.builds(Mark, st.sampled_from("ab"), st.none() | st.integers(1, 9), st.sampled_from(["", "s", "t"]))
steps = st.lists(
    st.tuples(st.just("push"), marks)
    | st.tuples(st.sampled_from(["append", "prepend", "take"]), st.none())
    | st.tuples(st.just("oldest"), st.integers(0, 9))
    | st.tuples(st.just("channel"), st.sampled_from("ab")),
    max_size=30,
)


def subject(mark: Mark | None) -> tuple[str, str] | None:
    return None if mark is None else (mark.channel, mark.subject)


@settings(max_examples=100, deadline=None)
@given(st.booleans(), steps)
def test_what_waits_and_what_is_left_out(latest: bool, steps: list[tuple[str, Mark | int | str | None]]) -> None:
    waiting = WaitingFrames(latest)
    model: list[tuple[bytes, Mark | None]] = []
    for number, (step, what) in enumerate(steps):
        octets = b"%d" % number
        if isinstance(what, Mark):
            older = [mark for _, mark in model if latest and subject(mark) == subject(what)]
            assert waiting.leave_out_older(what) == older
            model = [frame for frame in model if frame[1] is None or frame[1] not in older]
            waiting.append(octets, what)
            model.append((octets, what))
        elif step == "append":
            waiting.append(octets, None)
            model.append((octets, None))
        elif step == "prepend":
            waiting.prepend(octets)
            model.insert(0, (octets, None))
        elif step == "take" and model:
            assert waiting.take() == model.pop(0)[0]
        elif isinstance(what, int):
            left, left_out = what, []
            for frame in [frame for frame in model if frame[1] is not None]:
                if left > 0:
                    left -= len(frame[0])
                    left_out.append(frame[1])
                    model.remove(frame)
            assert waiting.leave_out_oldest(what) == left_out
        elif isinstance(what, str):
            waiting.leave_out_channel(what)
            model = [frame for frame in model if frame[1] is None or frame[1].channel != what]
        assert waiting.counted == sum(len(octets) for octets, mark in model if mark is not None)
        assert waiting.marks == [mark for _, mark in model if mark is not None]
        assert len(waiting) == len(model)
    assert [waiting.take() for _ in range(len(waiting))] == [octets for octets, _ in model]


def test_of_many_subjects_again_and_again_only_the_newest_takes_room() -> None:
    waiting = WaitingFrames(latest=True)
    for number in range(50):
        for name in range(20):
            mark = Mark("tasks", None, str(name))
            waiting.leave_out_older(mark)
            waiting.append(b"%02d" % number, mark)
    assert (len(waiting), waiting.counted) == (20, 40)
    assert len(waiting._frames) <= 40
    assert {waiting.take() for _ in range(20)} == {b"49"}
