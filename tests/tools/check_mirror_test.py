import unittest

import planted

import check_mirror


class CheckMirror(planted.ToolTest):
    tool = "check_mirror.py"
    clean = {
        **{header: "" for header in check_mirror.UNTESTED},
        "quire/ops/attention/CMakeLists.txt": "quire_room(ops_attention HEADERS kv_view.h)\n",
        "quire/cache/CMakeLists.txt": "quire_room(cache HEADERS kv_cache.h SOURCES contiguous.h)\n",
        "quire/cache/contiguous.h": "",
        "quire/ops/math/CMakeLists.txt": "quire_room(ops_math\n  HEADERS rope.h  # angles\n  SOURCES rope.cpp)\n",
        "quire/ops/math/rope.h": "",
        "quire/ops/math/rope.cpp": "",
        "tests/ops/math/rope_test.cpp": "",
        "tests/ops/math/CMakeLists.txt": "quire_test(ops/math/rope_test NEEDS ops_math)\n",
    }

    def setUp(self):
        rooms = {header.rsplit("/", 1)[0] for header in check_mirror.UNTESTED}
        self.assertEqual(rooms - {"quire/ops/attention", "quire/cache"}, set(), "add their rooms to `clean`")

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

    def test_an_exception_that_is_none_any_more(self):
        header = next(iter(check_mirror.UNTESTED))
        test = header.replace("quire/", "tests/").replace(".h", "_test.cpp")
        self.check_fault({test: ""}, "take it off the list")


if __name__ == "__main__":
    unittest.main()
