"""usage: check_weak_symbols_test.py COMPILER"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import planted

COMPILER = "c++"
SHARED = "namespace quire { inline int half(int x) { return x / 2; } }\n"
OWN = "namespace quire::kernel::avx512 { inline int half(int x) { return x / 2; } "
USE = "int (*use())(int) { return &half; } }\n"


class CheckWeakSymbols(unittest.TestCase):
    def run_tool(self, source, isa="avx512"):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a_simd.cpp"
            path.write_text(source, encoding="utf-8")
            subprocess.run([COMPILER, "-std=c++20", "-O0", "-c", str(path), "-o", f"{folder}/a.o"], check=True)
            command = [sys.executable, str(planted.TOOLS / "check_weak_symbols.py"), isa, f"{folder}/a.o"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            return result.returncode, result.stdout

    def test_functions_of_the_instruction_set(self):
        self.assertEqual(self.run_tool(OWN + USE), (0, ""))

    def test_an_inline_function_that_others_share(self):
        code, output = self.run_tool(SHARED + "namespace quire::kernel::avx512 { " + USE)
        self.assertEqual(code, 1)
        self.assertIn("weak symbol _ZN5quire4halfEi is not in quire::kernel::avx512", output)

    def test_a_function_of_another_instruction_set(self):
        code, output = self.run_tool(OWN + USE, isa="portable")
        self.assertEqual(code, 1)
        self.assertIn("is not in quire::kernel::portable", output)

    def test_a_template_of_the_standard_library(self):
        source = "#include <vector>\nnamespace quire::kernel::avx512 { void f(std::vector<int>& v) { v.resize(9); } }\n"
        self.assertEqual(self.run_tool(source)[0], 1)


if __name__ == "__main__":
    COMPILER = sys.argv.pop(1)
    unittest.main()
