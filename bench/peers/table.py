"""From the rates of all rounds to medians, ratios and the table that README shows."""

import statistics
from collections.abc import Sequence

from programs import LLAMA, OPENVINO, QUIRE, Points, Program, Rates

Rounds = list[dict[tuple[str, str], Rates]]  # one dict per round, by (program, setting)

# What Quire is to reach, as a multiple: of llama.cpp in prefill, of the better peer in decode.
GOALS = {"prefill": {"512": 3.0, "4096": 3.0},
         "decode": {"0": 1.0, "512": 1.3, "4000": 1.6, "7000": 1.9}}
GOAL_PEERS = {"prefill": [LLAMA], "decode": [LLAMA, OPENVINO]}


def rates_of(rounds: Rounds, key: tuple[str, str], phase: str, size: str) -> list[float]:
    return [one[key][phase][size] for one in rounds]


def best_setting(rounds: Rounds, name: str, phase: str, size: str) -> tuple[str, str] | None:
    """The setting of the program `name` with the highest median at this point; None when it was not run."""
    keys = [key for key in rounds[0] if key[0] == name]
    return max(keys, key=lambda key: statistics.median(rates_of(rounds, key, phase, size)), default=None)


def point(rounds: Rounds, phase: str, size: str) -> dict[str, object]:
    """Everything that is known of one measuring point. Ratios are taken within each round, then the median of them:
    what slows the machine for a minute slows both sides of a ratio."""
    best = {name: best_setting(rounds, name, phase, size) for name in (QUIRE, LLAMA, OPENVINO)}
    rates = {name: rates_of(rounds, key, phase, size) for name, key in best.items() if key}
    median = {name: statistics.median(values) for name, values in rates.items()}
    row: dict[str, object] = {"phase": phase, "size": int(size), "tok_s": median,
                              "setting": {name: key[1] for name, key in best.items() if key}}
    if QUIRE not in rates:
        return row
    ratio = {name: statistics.median(ours / theirs for ours, theirs in zip(rates[QUIRE], values))
             for name, values in rates.items() if name != QUIRE}
    row["ratio"] = ratio
    goal, judges = GOALS[phase].get(size), GOAL_PEERS[phase]
    if goal is not None and all(name in ratio for name in judges):
        row["goal"] = goal
        row["met"] = min(ratio[name] for name in judges) >= goal
    return row


def summary(rounds: Rounds, points: Points) -> list[dict[str, object]]:
    return [point(rounds, phase, str(size)) for phase, sizes in points.items() for size in sizes]


def markdown(rows: Sequence[dict[str, object]], programs: Sequence[Program]) -> str:
    """One line per point: tokens a second of each program, the ratios, and the goal with whether it is met."""
    names = list(dict.fromkeys(program.name for program in programs))
    others = [name for name in names if name != QUIRE] if QUIRE in names else []
    head = ["tok/s", *names, *(f"quire / {name}" for name in others), "goal"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        where = f"prefill {row['size']}" if row["phase"] == "prefill" else f"decode @{row['size']}"
        goal = f"{row['goal']:.1f} × {'yes' if row['met'] else 'NO'}" if "goal" in row else "–"
        lines.append([where, *(f"{row['tok_s'][name]:.0f}" for name in names),
                      *(f"{row['ratio'][name]:.2f} ×" for name in others), goal])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
