from driftline.streams.runtime.stall import StallWatch


def test_a_position_that_stands_still_before_the_end_is_counted_in_seconds() -> None:
    watch: StallWatch[str] = StallWatch()
    assert watch.look(0, {"p": 5}, {"p": 9}, ()) == {"p": 0}
    assert watch.look(59, {"p": 5}, {"p": 99}, ()) == {"p": 59}
    assert watch.look(60, {"p": 5}, {"p": 99}, ()) == {"p": 60}


def test_progress_the_end_and_work_are_no_stall() -> None:
    watch: StallWatch[str] = StallWatch()
    for now in range(0, 300, 30):
        positions, ends = {"moves": now, "ends": 9, "works": 5}, {"moves": 999, "ends": 9, "works": 99}
        assert watch.look(now, positions, ends, ["works"]) == {"moves": 0}


def test_it_begins_anew_after_progress() -> None:
    watch: StallWatch[str] = StallWatch()
    watch.look(0, {"p": 5}, {"p": 9}, ())
    watch.look(50, {"p": 6}, {"p": 9}, ())
    assert watch.look(100, {"p": 6}, {"p": 9}, ()) == {"p": 50}
