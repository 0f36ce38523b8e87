"""usage: check_links_test.py COMPILER"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import planted

COMPILER = "c++"
ROOMS = {
    "base": ("void base_call() {}\n", []),
    "io": ("void base_call(); void io_call() { base_call(); }\n", []),
    "text": ("void base_call(); void text_call() { base_call(); }\n", []),
    "cache": ("void io_call(); void cache_call() { io_call(); }\n", ["io"]),
}


class CheckLinks(unittest.TestCase):
    def run_tool(self, changes):
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for name, (source, needs) in {**ROOMS, **changes}.items():
                stem = pathlib.Path(folder) / name
                stem.with_suffix(".cpp").write_text(source, encoding="utf-8")
                subprocess.run([COMPILER, "-c", f"{stem}.cpp", "-o", f"{stem}.o"], check=True)
                subprocess.run(["ar", "rc", f"{stem}.a", f"{stem}.o"], check=True)
                lines.append(f"{name};{stem}.a;{','.join(needs)}\n")
            rooms = pathlib.Path(folder) / "rooms.txt"
            rooms.write_text("".join(lines), encoding="utf-8")
            command = [sys.executable, str(planted.TOOLS / "check_links.py"), str(rooms)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            return result.returncode, result.stdout

    def test_calls_along_the_lines(self):
        self.assertEqual(self.run_tool({}), (0, ""))

    def test_a_call_to_a_room_that_is_not_needed(self):
        code, output = self.run_tool({"text": ("void io_call(); void text_call() { io_call(); }\n", [])})
        self.assertEqual((code, output), (1, "text calls io_call() of io, which it does not NEED\n"))

    def test_a_call_past_the_room_between(self):
        model = ("void cache_call(); void io_call(); void f() { cache_call(); io_call(); }\n", ["cache"])
        code, output = self.run_tool({"model": model})
        self.assertEqual((code, output), (1, "model calls io_call() of io, which it does not NEED\n"))

    def test_a_call_upwards(self):
        code, output = self.run_tool({"io": ("void cache_call(); void io_call() { cache_call(); }\n", [])})
        self.assertEqual(code, 1)
        self.assertIn("io calls cache_call() of cache", output)


if __name__ == "__main__":
    COMPILER = sys.argv.pop(1)
    unittest.main()
