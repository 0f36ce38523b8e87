#!/usr/bin/env python3
"""Tests of bench/peers/run and install: stand-ins answer with fixed numbers in place of Quire and its peers."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PEERS = pathlib.Path(__file__).resolve().parents[3] / "bench" / "peers"

# Answers as `quire bench model --json` and the workers do; the rate depends on who is asked, and on the phase. It logs
# who was asked, and refuses sizes that a test plants in REFUSE.
STAND_IN = """#!{python}
import json, os, pathlib, sys
args = sys.argv[1:]
if "--tokenize" in args:
    print(1, 2, 3)
    sys.exit()
value = lambda name: args[args.index(name) + 1] if name in args else ""
who = value("--flash") or value("--backend") or "quire"
pathlib.Path(os.environ["CALLS"]).open("a").write(f"{{who}} {{value('--prefill')}}/{{value('--decode')}}\\n")
if os.environ.get("FAIL") == who:
    sys.exit("no such weather")
rate = {{"quire": 900, "on": 100, "off": 150, "PA": 600, "SDPA": 300}}[who]
sizes = lambda name: {{size: rate for size in value(name).split(",") if size and size != os.environ.get("LEAVE_OUT")}}
print(json.dumps({{"prefill": sizes("--prefill"), "decode": sizes("--decode"), "threads": int(value("--threads"))}}))
"""


class RunTest(unittest.TestCase):
    def run_peers(self, *arguments, **environment):
        """Exit code, stdout, stderr, the order of calls, and the JSON if one was written."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "venv/bin").mkdir(parents=True)
            (folder / "venv/quire-stamp").touch()
            for program in (folder / "venv/bin/python", folder / "quire"):
                program.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
                program.chmod(0o755)
            for file in ("model.gguf", "text", "calls"):
                (folder / file).touch()
            paths = [folder / "model.gguf", "--quire", folder / "quire", "--text", folder / "text",
                     "--json", folder / "j"]
            done = subprocess.run(
                [sys.executable, "-B", PEERS / "run", *paths, *arguments], capture_output=True, text=True, check=False,
                env={**os.environ, "QUIRE_PEERS": str(folder / "venv"), "CALLS": str(folder / "calls"), **environment})
            written = json.loads((folder / "j").read_text()) if (folder / "j").exists() else None
            return done.returncode, done.stdout, done.stderr, (folder / "calls").read_text().splitlines(), written

    def test_everything(self):
        code, out, _, calls, written = self.run_peers("--prefill", "512", "--decode", "0,7", "--rounds", "2")
        self.assertEqual(code, 0)
        self.assertIn("| prefill 512 | 900 | 150 | 600 | 6.00 × | 1.50 × | 3.0 × yes |", out)
        self.assertIn("| decode @7 | 900 | 150 | 600 | 6.00 × | 1.50 × | – |", out)
        order = ["quire", "on", "off", "PA", "SDPA"]
        self.assertEqual(calls[:10], [f"{who} 512/" for who in order] + [f"{who} /0,7" for who in order])
        self.assertEqual(calls[10:15], [f"{who} 512/" for who in [*order[1:], "quire"]])
        self.assertEqual(written["rounds"][1]["llama.cpp, flash attention on"]["decode"], {"0": 100.0, "7": 100.0})
        self.assertEqual(written["rows"][0]["ratio"], {"llama.cpp": 6.0, "openvino": 1.5})

    def test_smoke_runs_quire_alone(self):
        code, out, _, calls, _ = self.run_peers("--smoke", QUIRE_PEERS="/nonexistent")
        self.assertEqual((code, calls), (0, ["quire 32/", "quire /0"]))
        self.assertIn("| prefill 32 | 900 | – |", out)

    def test_only(self):
        code, _, _, calls, _ = self.run_peers("--only", "openvino", "--prefill", "", "--decode", "5", "--rounds", "1")
        self.assertEqual((code, calls), (0, ["PA /5", "SDPA /5"]))

    def test_a_program_that_fails(self):
        code, out, err, _, written = self.run_peers("--rounds", "1", FAIL="off")
        self.assertEqual((code, out, written), (1, "", None))
        self.assertIn("llama.cpp ended with 1: no such weather", err)

    def test_a_program_that_leaves_a_point_out(self):
        code, _, err, _, _ = self.run_peers("--only", "quire", "--rounds", "1", LEAVE_OUT="4096")
        self.assertEqual(code, 1)
        self.assertIn("KeyError('4096')", err)

    def test_wrong_usage(self):
        for arguments in (["--only", "quire,ollama"], ["--prefill", "5,x"], ["--decode", "-1"], ["--rounds", "0"],
                          ["--quire", "/nonexistent"]):
            self.assertEqual(self.run_peers(*arguments)[0], 2, arguments)
        code, _, err, _, _ = self.run_peers(QUIRE_PEERS="/nonexistent")
        self.assertEqual(code, 2)
        self.assertIn("bench/peers/install does it", err)


class InstallTest(unittest.TestCase):
    def test_smoke_installs_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([PEERS / "install", "--smoke"], capture_output=True, text=True, check=False,
                                  env={**os.environ, "QUIRE_PEERS": f"{folder}/venv"})
            self.assertEqual(done.returncode, 0)
            self.assertIn(f"would make {folder}/venv (llama-cpp-python ", done.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_a_folder_that_is_no_environment_is_left_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "mine").touch()
            done = subprocess.run([PEERS / "install"], capture_output=True, text=True, check=False,
                                  env={**os.environ, "QUIRE_PEERS": folder})
            self.assertEqual((done.returncode, os.listdir(folder)), (1, ["mine"]))
            self.assertIn("no virtual environment", done.stderr)

    def test_wrong_usage(self):
        self.assertEqual(subprocess.run([PEERS / "install", "--now"], capture_output=True, check=False).returncode, 2)


if __name__ == "__main__":
    unittest.main()
