#!/usr/bin/env python3
"""Prints what quire eval --json found as Markdown tables: levels A and B in one, tasks in another.

    quire eval smollm2 --file TEXT --cache full,window --budget 25% --json > found.json
    bench/eval_table.py found.json
"""

import json
import pathlib
import sys


def number(x: float) -> str:
    if x == 0:
        return "0"
    return f"{x:.4f}" if abs(x) >= 1e-3 else f"{x:.1e}"


def name(row: dict) -> str:
    return row["cache"] if row["budget"] is None else f"{row['cache']} {row['budget']}"


def measured(found: dict) -> None:
    print("| cache | R MB | S MB | KL | 95 % | median | p99 | top-1 | ΔNLL | far | error | mass, p5 |")
    print("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---|")
    for row in found["rows"]:
        low, high = row["kl_interval"]
        cells = [name(row), f"{row['bytes_read'] / 1e6:.1f}", f"{row['bytes_stored'] / 1e6:.1f}",
                 number(row["kl_mean"]), f"{number(low)} … {number(high)}", number(row["kl_median"]),
                 number(row["kl_p99"]), f"{row['top1']:.1%}", f"{row['dnll']:.4f}", f"{row['dnll_far']:.4f}",
                 f"{row['error']:.4f}", f"{row['mass']:.1%}, {row['mass_p5']:.1%}"]
        print(f"| {' | '.join(cells)} |")


def tasks(found: dict) -> None:
    columns = list(dict.fromkeys(cell["task"] for cell in found["tasks"]))
    print(f"| cache | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    rows: dict[str, dict[str, str]] = {}
    for cell in found["tasks"]:
        passed = f"{cell['passed']} of {cell['cells']}" if cell["claim"] else "too few"
        rows.setdefault(name(cell), {})[cell["task"]] = passed
    for row, cells in rows.items():
        print(f"| {row} | {' | '.join(cells.get(column, '') for column in columns)} |")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        found = json.loads(pathlib.Path(path).read_text())
        print(f"\n{found['document']:,} tokens read, {found['positions']} positions, {found['mode']} mode\n")
        measured(found)
        if found["tasks"]:
            print()
            tasks(found)
