import pathlib
import subprocess
import sys
import tempfile
import unittest

import planted

IDS = """# a comment

IDX-01 M     sums
IDX-02 S gpu picks
OTH-08 O     a tape
B3  M     a fault
B12 S     another
"""
TEST_FILE = "tests/ops/index/gather_test.cpp"
TESTS = """
TEST(Gather, IDX_01_IDX_02_Both) {}
TEST_F(Gather, P4_B3_IDX_02_Again) {}
TEST(Gather, G01_IDX_01_B3) {}
TEST(Gather, NoId) {}
"""


def spec(changes=(), *options):
    """Exit code, output, and the page that was written."""
    files = {"docs/spec_ids.txt": IDS, TEST_FILE: TESTS, **dict(changes)}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        command = [sys.executable, str(planted.TOOLS / "make_spec.py"), *options, str(root)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        path = root / "docs/spec.md"
        page = path.read_text(encoding="utf-8") if path.is_file() else ""
        return result.returncode, result.stdout + result.stderr, page


class MakeSpec(unittest.TestCase):
    def test_page(self):
        code, output, page = spec()
        self.assertEqual((code, output), (0, ""))
        self.assertIn(f"| IDX-01 | M | ● | sums | `{TEST_FILE}` 2 |", page)
        self.assertIn(f"| IDX-02 | S | ◐ | picks | `{TEST_FILE}` 2 |", page)
        self.assertIn("| OTH-08 | O | ○ | a tape |  |", page)
        self.assertIn(f"| B3 | M | ● | a fault | `{TEST_FILE}` 2 |", page)
        self.assertTrue(page.endswith("## Nobody has taken yet\n\nOTH-08, B12.\n"))

    def test_the_cuda_half(self):
        _, _, page = spec({"tests/cuda_test.cpp": "TEST(Gather, IDX_02_Picks_Cuda) {}\n"})
        self.assertIn("| IDX-02 | S | ● | picks |", page)

    def check_fault(self, changes, words, *options):
        code, output, _ = spec(changes, *options)
        self.assertEqual(code, 1, output)
        self.assertIn(words, output)
        self.assertNotIn("Traceback", output)

    def test_unknown_ids(self):
        for name in ("IDX_99_Nothing", "IXD_01_Typed", "IDX_01_IDX_03_Second", "P4_IDX_99_Third", "B4_Fault"):
            self.check_fault({"tests/a_test.cpp": f"\nTEST(A, {name}) {{}}\n"}, "tests/a_test.cpp:2: ")
            self.check_fault({"tests/a_test.cpp": f"\nTEST(A, {name}) {{}}\n"}, "is not in docs/spec_ids.txt")

    def test_lists(self):
        for line in ("IDX-3 M three", "IDX-03 X three", "ABC-01 M three", "IDX-03 M"):
            self.check_fault({"docs/spec_ids.txt": IDS + line + "\n"}, "docs/spec_ids.txt:8: ")
        self.check_fault({"docs/spec_ids.txt": IDS + "IDX-01 M again\n"}, "docs/spec_ids.txt:8: IDX-01 stands twice")

    def test_check(self):
        self.check_fault({}, "docs/spec.md is out of date", "--check")
        self.check_fault({"docs/spec.md": "old"}, "docs/spec.md is out of date", "--check")
        page = spec()[2]
        self.assertEqual(spec({"docs/spec.md": page}, "--check")[0], 0)
        self.assertEqual(spec({"docs/spec.md": "old"}, "--check")[2], "old")


if __name__ == "__main__":
    unittest.main()
