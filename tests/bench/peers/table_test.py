#!/usr/bin/env python3
"""Tests of bench/peers/table.py: medians, ratios and goals of rounds that are written down here."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "bench" / "peers"))

from programs import LLAMA, OPENVINO, QUIRE, Program  # noqa: E402
import table  # noqa: E402


def one_round(quire, on, off, openvino, phase="decode", size="512"):
    rates = {(QUIRE, "fast"): quire, (LLAMA, "on"): on, (LLAMA, "off"): off, (OPENVINO, "PA"): openvino}
    return {key: {phase: {size: rate}} for key, rate in rates.items()}


class TableTest(unittest.TestCase):
    def test_the_better_setting_by_its_median(self):
        rounds = [one_round(90, 30, 40, 20), one_round(90, 30, 1, 20), one_round(90, 30, 41, 20)]
        row = table.point(rounds, "decode", "512")
        self.assertEqual(row["setting"][LLAMA], "off")
        self.assertEqual(row["tok_s"], {QUIRE: 90, LLAMA: 40, OPENVINO: 20})

    def test_ratios_are_taken_within_a_round(self):
        # The machine halves its speed for everyone in the second round: medians move, the ratios do not.
        rounds = [one_round(100, 10, 50, 25), one_round(50, 5, 25, 12.5), one_round(100, 10, 50, 25)]
        self.assertEqual(table.point(rounds, "decode", "512")["ratio"], {LLAMA: 2.0, OPENVINO: 4.0})

    def test_decode_is_judged_by_the_better_peer(self):
        self.assertTrue(table.point([one_round(130, 1, 100, 90)], "decode", "512")["met"])
        self.assertFalse(table.point([one_round(130, 1, 90, 101)], "decode", "512")["met"])

    def test_prefill_is_judged_by_llama_cpp(self):
        def met(quire, openvino):
            return table.point([one_round(quire, 10, 20, openvino, "prefill", "4096")], "prefill", "4096")["met"]
        self.assertTrue(met(60, 1000))
        self.assertFalse(met(59, 1))

    def test_no_goal_without_its_peers_or_at_another_size(self):
        rates = one_round(100, 10, 50, 25)
        self.assertNotIn("goal", table.point([one_round(100, 1, 1, 1, size="513")], "decode", "513"))
        del rates[OPENVINO, "PA"]
        self.assertNotIn("goal", table.point([rates], "decode", "512"))

    def test_markdown(self):
        programs = [Program(name, "", []) for name in (QUIRE, LLAMA, LLAMA, OPENVINO)]
        rows = table.summary([one_round(100, 10, 50, 80)], {"prefill": [], "decode": [512]})
        self.assertEqual(table.markdown(rows, programs).splitlines(), [
            "| tok/s | quire | llama.cpp | openvino | quire / llama.cpp | quire / openvino | goal |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| decode @512 | 100 | 50 | 80 | 2.00 × | 1.25 × | 1.3 × NO |"])


if __name__ == "__main__":
    unittest.main()
