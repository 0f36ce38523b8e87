import unittest

import planted

import check_mirror


def untested():
    """The headers that need no test, each named by its room."""
    files = {header: "" for header in check_mirror.UNTESTED}
    for header in check_mirror.UNTESTED:
        room, name = header.rsplit("/", 1)
        cmake = f"{room}/CMakeLists.txt"
        files[cmake] = files.get(cmake, "quire_room(x HEADERS)\n").replace("HEADERS", f"HEADERS {name}")
    return files


class CheckMirror(planted.ToolTest):
    tool = "check_mirror.py"
    clean = {
        **untested(),
        "quire/io/CMakeLists.txt": "quire_room(io SOURCES header.h)\n",
        "quire/io/header.h": "",
        "quire/ops/math/CMakeLists.txt": "quire_room(ops_math\n  HEADERS rope.h  # angles\n  SOURCES rope.cpp)\n",
        "quire/ops/math/rope.h": "",
        "quire/ops/math/rope.cpp": "",
        "tests/ops/math/rope_test.cpp": "",
        "tests/ops/math/CMakeLists.txt": "quire_test(ops/math/rope_test NEEDS ops_math)\n",
    }

    def test_clean_tree(self):
        self.check_clean()

    def test_a_header_without_a_test(self):
        self.check_fault({"tests/ops/math/rope_test.cpp": None}, "quire/ops/math/rope.h: has no test")

    def test_a_test_at_another_path(self):
        fault = {"tests/ops/math/rope_test.cpp": None, "tests/ops/rope_test.cpp": ""}
        self.check_fault(fault, "tests/ops/math/rope_test.cpp")

    def test_a_test_that_nothing_builds(self):
        fault = {"tests/ops/math/CMakeLists.txt": "# quire_test(ops/math/rope_test)\n"}
        self.check_fault(fault, "no quire_test(ops/math/rope_test")

    def test_a_source_that_no_room_names(self):
        self.check_fault({"quire/ops/math/lost.cpp": ""}, "quire/ops/math/lost.cpp: no quire_room() names it")

    def test_an_exception_that_does_not_exist(self):
        header = next(iter(check_mirror.UNTESTED))
        self.check_fault({header: None}, "is on the list in tools/check_mirror.py but does not exist")

    def test_an_exception_that_is_none_any_more(self):
        header = next(iter(check_mirror.UNTESTED))
        test = header.replace("quire/", "tests/").replace(".h", "_test.cpp")
        self.check_fault({test: ""}, "take it off the list")


if __name__ == "__main__":
    unittest.main()
