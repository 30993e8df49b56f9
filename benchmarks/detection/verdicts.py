"""What the rows say about the goals. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
RATIO_OF_BEST_PEER = 0.7  # goal: our delay, over the best peer's, at equal false alarms
CALIBRATED = (0.2, 1.0)  # goal: alarms seen over alarms stated; below is conservative
CALM = 2.0  # a peer with more than this times the alarms it was matched to is no rival


def calibrated(row: Row) -> str:
    """`met`, `conservative` (fewer alarms than a fifth of the stated), or `missed`."""
    low, high = CALIBRATED
    if row["calibration_low"] > high:
        return "missed"
    return "met" if row["calibration_ratio"] >= low else "conservative"


def rivals(rows: Sequence[Row]) -> list[Row]:
    """For each drift, our best detector and the best peer at matched false alarms, by the delay that counts what was
    not found as the horizon. A peer that alarms far more often than that on the null with the same sessions is none."""
    wild = {_who(row, row["stream"]) for row in rows if row["null"] and row.get("calibration_low", 0) > CALM}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["null"] or row["setting"] != "matched" or row.get("delay_restricted_events") is None:
            continue
        null = "N2 sessions of 4" if "sessions of 4" in row["stream"] else "N1 independent"
        ours = row["tool"] == "driftline"
        if not ours and _who(row, null) in wild:
            continue
        side = found.setdefault(row["stream"], {})
        who = "ours" if ours else "peer"
        if who not in side or row["delay_restricted_events"] < side[who]["delay_restricted_events"]:
            side[who] = row
    return [_rivalry(stream, side["ours"], side.get("peer")) for stream, side in found.items() if "ours" in side]


def _who(row: Row, null: str) -> tuple[str, str, str, str]:
    return row["tool"], row["detector"], row["signal"], null


def _rivalry(stream: str, ours: Row, peer: Row | None) -> Row:
    rivalry = {
        "stream": stream,
        "ours": ours["detector"],
        "our_delay": ours["delay_restricted_events"],
        "our_share": ours["detected_share"],
    }
    if peer is None:
        return rivalry
    ratio = ours["delay_restricted_events"] / peer["delay_restricted_events"]
    return rivalry | {
        "peer": f"{peer['tool']} {peer['detector']}",
        "peer_delay": peer["delay_restricted_events"],
        "peer_share": peer["detected_share"],
        "ratio": ratio,
        "met": ratio <= RATIO_OF_BEST_PEER,
        "we_lose": ratio > 1,
    }


STATED_GOALS = {
    # stream: (detector, mean delay in events at one false alarm in 30 days over 1,000 streams)
    "D1 new topic 100 %": ("embedding_drift", 48),
    "D1 new topic 50 %": ("embedding_drift", 100),
    "D1 new topic 20 %": ("embedding_drift", 450),
    "D1 new topic 10 %": ("embedding_drift", 2000),
    "D1 new topic 50 %, sessions of 4": ("embedding_drift", 340),
    "D9 errors 1 % to 5 %": ("error_rate", 700),
    "D7 Beta(8,2) scores -10 %": ("quality", 260),
    "D4 length +10 %": ("scalar_drift", 6500),
}
ADWIN_SCORES = 208  # events that river's ADWIN needs, at its defaults, for scores -10 %


def stated_goals(rows: Sequence[Row]) -> list[Row]:
    best: Mapping[tuple[str, str], Row] = {
        (row["stream"], row["detector"]): row
        for row in rows
        if row["tool"] == "driftline" and row["setting"] == "stated" and "detected_share" in row
    }
    return [
        {
            "stream": stream,
            "detector": detector,
            "goal_events": goal,
            "delay_mean_events": best[stream, detector]["delay_mean_events"],
            "detected_share": best[stream, detector]["detected_share"],
            "met": best[stream, detector]["detected_share"] == 1
            and best[stream, detector]["delay_mean_events"] <= goal,
        }
        for stream, (detector, goal) in STATED_GOALS.items()
        if (stream, detector) in best
    ]
