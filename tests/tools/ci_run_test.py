""".ci/run over stand-ins for scripts/test: what it counts, its last line, and its exit code."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CASE = {
    "passed": '<testcase name="a" status="run">\n<system-out></system-out></testcase>\n',
    "failed": '<testcase name="b" status="fail"><failure message=""/></testcase>\n',
    "absent": '<testcase name="c" status="notrun">\n<skipped message="Unable to find executable"/></testcase>\n',
    "skipped": '<testcase name="d" status="notrun">\n<skipped message="SKIP_RETURN_CODE=77"/></testcase>\n',
}


class CiRun(unittest.TestCase):
    def run_ci(self, release, asan, release_code=0, asan_code=0, stale=False):
        """The exit code and last line, when the parts have these cases (None: no report) and exit codes.

        `stale`: a report of an earlier run lies there.
        """
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / ".ci").mkdir()
            (root / "scripts").mkdir()
            shutil.copy(ROOT / ".ci/run", root / ".ci/run")
            lines = ["#!/bin/bash", "part=${1:-release}", "mkdir -p build/$part"]
            for part, cases, code in (("release", release, release_code), ("asan", asan, asan_code)):
                lines.append(f'if [ $part = {part} ]; then echo "part {part} says 9 passed, 9 failed"')
                if cases is not None:
                    report = "<testsuite>\n" + "".join(CASE[case] for case in cases) + "</testsuite>\n"
                    lines.append(f"cat >build/{part}/tests.xml <<'EOF'\n{report}EOF")
                lines.append(f"exit {code}; fi")
            (root / "scripts/test").write_text("\n".join(lines) + "\n", encoding="utf-8")
            os.chmod(root / "scripts/test", 0o755)
            if stale:
                (root / "build/release").mkdir(parents=True)
                (root / "build/release/tests.xml").write_text(CASE["passed"], encoding="utf-8")
            result = subprocess.run(["bash", ".ci/run"], cwd=root, capture_output=True, text=True, check=False)
            return result.returncode, result.stdout.splitlines()[-1]

    def test_all_pass(self):
        self.assertEqual(self.run_ci(["passed"] * 3, ["passed"]), (0, "4 passed, 0 failed"))

    def test_a_failure_in_either_part(self):
        self.assertEqual(self.run_ci(["passed", "failed"], ["passed"], 8), (1, "2 passed, 1 failed"))
        self.assertEqual(self.run_ci(["passed"], ["failed"], 0, 8), (1, "1 passed, 1 failed"))

    def test_a_program_that_was_not_built(self):
        self.assertEqual(self.run_ci(["passed", "absent"], ["passed"], 8), (1, "2 passed, 1 failed"))

    def test_a_skipped_test(self):
        self.assertEqual(self.run_ci(["passed", "skipped"], ["passed"]), (0, "2 passed, 0 failed, 1 skipped"))

    def test_a_part_that_does_not_build(self):
        self.assertEqual(self.run_ci(None, ["passed"], 1), (1, "1 passed, 1 failed"))
        self.assertEqual(self.run_ci(None, None, 1, 1), (1, "0 passed, 2 failed"))

    def test_an_exit_code_without_a_failed_test(self):
        self.assertEqual(self.run_ci(["passed"], ["passed"], 1), (1, "2 passed, 1 failed"))

    def test_a_report_of_an_earlier_run(self):
        self.assertEqual(self.run_ci(None, ["passed"], 1, stale=True), (1, "1 passed, 1 failed"))

    def test_no_test_at_all(self):
        self.assertEqual(self.run_ci([], []), (1, "0 passed, 0 failed"))


if __name__ == "__main__":
    unittest.main()
