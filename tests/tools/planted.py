"""Small source trees with a planted fault, and what a tool says about them."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / "tools"
sys.path.insert(0, str(TOOLS))


class ToolTest(unittest.TestCase):
    """`tool` is the file name in tools/; `clean` is a tree without a fault, {path: text}."""

    tool = ""
    clean = {}

    def run_tool(self, changes, *options):
        """The exit code and output of the tool over the clean tree with `changes` made (None removes a file)."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**self.clean, **changes}.items():
                if text is not None:
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    (root / name).write_text(text, encoding="utf-8")
            command = [sys.executable, str(TOOLS / self.tool), *options, str(root)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            return result.returncode, result.stdout + result.stderr

    def check_clean(self):
        code, output = self.run_tool({})
        self.assertEqual((code, output), (0, ""))

    def check_fault(self, changes, *words):
        code, output = self.run_tool(changes)
        self.assertEqual(code, 1, output)
        for word in words:
            self.assertIn(word, output)
        self.assertNotIn("Traceback", output)
