#!/usr/bin/env python3
"""Tests of bench/peers/policies: its table and its verdict, from rows that are written down here; the program with
stand-ins in place of both sides."""

import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[3] / "bench" / "peers" / "policies"
loader = importlib.machinery.SourceFileLoader("policies", str(SCRIPT))
policies = importlib.util.module_from_spec(importlib.util.spec_from_loader("policies", loader))
loader.exec_module(policies)


class PoliciesTest(unittest.TestCase):
    def test_rows_within_a_tenth_agree(self):
        ours = {("window", 128): 0.109, ("snapkv", 128): 0.2}
        text, agree = policies.table(ours, {("window", 128): 0.1, ("snapkv", 128): 0.2})
        self.assertTrue(agree)
        self.assertIn("| window | 128 | 0.109 | 0.1 | +9.00% |", text)
        self.assertIn("| snapkv | 128 | 0.2 | 0.2 | +0.00% |", text)

    def test_a_row_beyond_a_tenth_differs_either_way(self):
        for kl in (0.111, 0.089):
            text, agree = policies.table({("window", 128): kl}, {("window", 128): 0.1})
            self.assertFalse(agree)
            self.assertIn("DIFFERS", text)

    def test_what_only_they_have_is_not_comparable_and_does_not_count(self):
        text, agree = policies.table({}, {("other", 64): 0.3})
        self.assertTrue(agree)
        self.assertIn("| other | 64 | | 0.3 | not comparable", text)

    def run_script(self, own):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "bin").mkdir()
            for path, kl in ((root / "bench", own), (root / "bin" / "python", 0.1)):
                row = f'{{"cache": "window", "budget": 8, "kl_mean": {kl}}}'
                path.write_text(f"#!/bin/sh\necho noise\necho '{row}'\n")
                path.chmod(0o755)
            return subprocess.run([sys.executable, "-B", str(SCRIPT), "model", "--bench", str(root / "bench")],
                                  env={**os.environ, "QUIRE_KVPRESS": folder}, capture_output=True, text=True,
                                  check=False)

    def test_the_program_ends_with_its_verdict(self):
        done = self.run_script(0.101)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| window | 8 | 0.101 | 0.1 | +1.00% |", done.stdout)
        self.assertEqual(self.run_script(0.2).returncode, 1)

    def test_a_side_that_fails_is_told(self):
        with self.assertRaisesRegex(RuntimeError, "ended with 3: woe"):
            policies.rows(["sh", "-c", "echo woe >&2; exit 3"])


if __name__ == "__main__":
    unittest.main()
