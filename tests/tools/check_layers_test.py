import unittest

import planted


class CheckLayers(planted.ToolTest):
    tool = "check_layers.py"
    clean = {
        "quire/base/isa.h": "#pragma once\n",
        "quire/tensor/tensor.h": '#include "quire/base/isa.h"\n',
        "quire/ops/math/rope.h": '#include "quire/tensor/tensor.h"\n',
        "quire/ops/math/rope_kernel.h": '#include "quire/base/isa.h"\n',
        "quire/ops/math/rope_cpu.cpp": '#include "quire/ops/math/rope_kernel.h"\n',
        "quire/ops/math/CMakeLists.txt": "quire_room(ops_math\n  HEADERS rope.h\n  NEEDS tensor)\n",
        "quire/io/gguf.h": '#include "quire/tensor/tensor.h"\n',
        "quire/model/llama.cpp": '#include "quire/io/gguf.h"\n',
        "examples/rope.cpp": '#include "quire/ops/math/rope.h"\n',
    }

    def test_clean_tree(self):
        self.check_clean()

    def test_a_room_above(self):
        fault = {"quire/tensor/tensor.h": '\n#include "quire/ops/math/rope_kernel.h"\n'}
        self.check_fault(fault, "quire/tensor/tensor.h:2", "ops/ is not on its line")

    def test_a_neighbour_that_is_not_on_the_line(self):
        self.check_fault({"quire/io/gguf.h": '#include "quire/ops/math/rope.h"\n'}, "io/ may not include")

    def test_a_kernel_that_reaches_a_tensor_through_another_header(self):
        fault = {"quire/ops/math/rope_kernel.h": '#include "quire/ops/math/rope.h"\n'}
        chain = "rope_cpu.cpp -> quire/ops/math/rope_kernel.h -> quire/ops/math/rope.h -> quire/tensor/tensor.h"
        self.check_fault(fault, chain, "quire/ops/math/rope_kernel.h: a kernel file reaches")

    def test_a_library_that_is_not_on_the_line(self):
        fault = {"quire/ops/math/CMakeLists.txt": "quire_room(ops_math HEADERS rope.h NEEDS tensor io)\n"}
        self.check_fault(fault, "NEEDS io")

    def test_a_room_without_a_line(self):
        self.check_fault({"quire/attic/old.h": ""}, "'attic' has no line")

    def test_a_header_that_does_not_exist(self):
        self.check_fault({"quire/io/gguf.h": '#include "quire/base/gone.h"\n'}, "does not exist")

    def test_a_relative_include(self):
        self.check_fault({"quire/io/gguf.h": '#include "gguf_types.h"\n'}, "write the path from the root")

    def test_an_example_that_looks_inside(self):
        self.check_fault({"examples/rope.cpp": '#include "tests/reference/rope.h"\n'}, "only public headers")


if __name__ == "__main__":
    unittest.main()
