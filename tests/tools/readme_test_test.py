import os
import pathlib
import tempfile
import unittest

import readme_test


class ReadmeTest(unittest.TestCase):
    def check(self, page, program="exit 0"):
        """The findings of a page, and the arguments that the stand-in for `quire` was called with."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "bin").mkdir()
            (root / "scripts").mkdir()
            programs = {"bin/quire": f'echo "$@" >>{folder}/calls\n{program}', "scripts/demo": "exit 1",
                        "scripts/fetch_model": f"echo fetch >>{folder}/calls"}
            for name, text in programs.items():
                (root / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
                os.chmod(root / name, 0o755)
            (root / "README.md").write_text(page, encoding="utf-8")
            findings = readme_test.check(root / "README.md", root / "bin")
            calls = root / "calls"
            return findings, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []

    def test_commands_that_work(self):
        page = ("# Quire\n```sh\ngit clone x && cd x\nscripts/demo   # 6 minutes\n\n```\n"
                "## Use\n```sh\nscripts/fetch_model m\nquire run m \\\n  'two words' | cat\n```\n"
                "```\nquire printed\n```\n"
                "## Benchmarks\n```sh\nquire bench model m   # slow\n```\n## After\n```sh\nquire info m\n```\n")
        self.assertEqual(self.check(page), ([], ["fetch", "run m two words", "bench model m --smoke", "info m"]))

    def test_a_command_that_fails(self):
        findings, _ = self.check("```sh\nquire run m\n```\n", "echo no such model >&2; exit 3")
        self.assertEqual(len(findings), 1)
        self.assertIn("README.md:2: quire run m: exit code 3", findings[0])
        self.assertIn("no such model", findings[0])

    def test_a_failure_inside_a_pipe(self):
        self.assertEqual(len(self.check("```sh\nquire run m | cat\n```\n", "exit 3")[0]), 1)

    def test_a_script_that_does_not_exist(self):
        self.assertIn("not an executable", self.check("```sh\nscripts/gone\n```\n")[0][0])

    def test_a_page_without_commands(self):
        with self.assertRaises(ValueError):
            self.check("# Quire\n```\nquire run\n```\n")


if __name__ == "__main__":
    unittest.main()
