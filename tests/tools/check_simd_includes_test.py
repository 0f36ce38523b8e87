import unittest

import planted


class CheckSimdIncludes(planted.ToolTest):
    tool = "check_simd_includes.py"
    clean = {
        "quire/base/simd.h": "#include <immintrin.h>\n#include <cstdint>\n",
        "quire/base/half.h": "#include <bit>\n",
        "quire/ops/math/rope_kernel.h": "#include <cstddef>\n",
        "quire/ops/math/rope_simd.cpp": '#include "quire/ops/math/rope_kernel.h"\n#include "quire/base/simd.h"\n',
        "quire/ops/math/CMakeLists.txt": "quire_room(ops_math SOURCES rope.cpp SIMD rope_simd.cpp)\n",
        "quire/ops/math/rope.cpp": "#include <vector>\n",
    }

    def test_clean_tree(self):
        self.check_clean()

    def test_a_standard_header(self):
        fault = {"quire/ops/math/rope_simd.cpp": "#include <algorithm>\n"}
        self.check_fault(fault, "quire/ops/math/rope_simd.cpp:1: <algorithm>")

    def test_a_standard_header_behind_a_kernel_header(self):
        fault = {"quire/ops/math/rope_kernel.h": "#include <vector>\n"}
        self.check_fault(fault, "rope_kernel.h:1: <vector>", "rope_simd.cpp -> quire/ops/math/rope_kernel.h")

    def test_a_header_with_shared_functions(self):
        fault = {"quire/ops/math/rope_simd.cpp": '#include "quire/base/half.h"\n'}
        self.check_fault(fault, "reaches half.h")

    def test_a_name_that_hides_what_it_is(self):
        fault = {"quire/ops/math/CMakeLists.txt": "quire_room(ops_math SIMD rope_fast.cpp)\n"}
        self.check_fault(fault, "must be named *_simd.cpp")

    def test_a_kernel_compiled_once(self):
        fault = {"quire/ops/math/CMakeLists.txt": "quire_room(ops_math SOURCES rope_simd.cpp)\n"}
        self.check_fault(fault, "stands in SOURCES")


if __name__ == "__main__":
    unittest.main()
