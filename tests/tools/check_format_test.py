import pathlib
import subprocess
import sys
import tempfile
import unittest

import planted

CODE = "int twice(int x) { return 2 * x; }\n"


class CheckFormat(planted.ToolTest):
    tool = "check_format.py"
    clean = {
        ".clang-format": "BasedOnStyle: Google\nColumnLimit: 100\n",
        "quire/base/a.cpp": CODE,
        "tests/base/a_test.cpp": 'const char* text =\n    R"(' + "x" * 120 + '\n\ta tab)";\n',
        "scripts/demo": "#!/bin/sh\n",
    }

    def test_clean_tree(self):
        self.check_clean()

    def test_a_layout_of_its_own(self):
        self.check_fault({"quire/base/a.cpp": "int twice(int x){\n return 2*x;}\n"}, "quire/base/a.cpp: clang-format")

    def test_a_long_line(self):
        word = "a" * 110
        self.check_fault({"quire/base/a.cpp": f"int {word};\n"}, "quire/base/a.cpp:1: 115 columns, at most 100")

    def test_white_space_at_the_end(self):
        self.check_fault({"scripts/demo": "#!/bin/sh \n"}, "scripts/demo:1: a tab, or white space")

    def test_a_note_to_come_back(self):
        self.check_fault({"quire/base/a.cpp": "// TO" + "DO: more\n"}, "a note to come back")

    def test_a_long_file(self):
        self.check_fault({"quire/base/a.cpp": CODE * 801}, "801 lines, at most 800")

    def test_an_empty_tree(self):
        self.check_fault({"quire/base/a.cpp": None, "tests/base/a_test.cpp": None}, "no C++ file found")

    def test_fix(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "quire").mkdir()
            (root / ".clang-format").write_text(self.clean[".clang-format"], encoding="utf-8")
            (root / "quire/a.cpp").write_text("int twice(int x){return 2*x;}\n", encoding="utf-8")
            subprocess.run([sys.executable, str(planted.TOOLS / self.tool), "--fix", folder], check=True)
            self.assertEqual((root / "quire/a.cpp").read_text(encoding="utf-8"), CODE)


if __name__ == "__main__":
    unittest.main()
