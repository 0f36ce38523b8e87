import unittest

import planted

HEADER = """#pragma once
namespace quire {

/// Turns pairs of a head by the angle of their position.
void rope(float* x);
void rope_backward(float* dx);

struct Later;

/// A head.
template <class T>
class Head {
 public:
  int size() const;

  int pairs() const;
};

int heads(const Head<float>& head);  // at least 1

namespace detail {
void helper(int);
}  // namespace detail

}  // namespace quire

/// The number of bytes.
#define QUIRE_BYTES(x) sizeof(x)
"""


class CheckDocs(planted.ToolTest):
    tool = "check_docs.py"
    clean = {
        "quire/ops/math/CMakeLists.txt": "quire_room(ops_math HEADERS rope.h SOURCES rope_cpu.h)\n",
        "quire/ops/math/rope.h": HEADER,
        "quire/ops/math/rope_cpu.h": "void private_function();\n",
        "README.md": "See [the rooms](docs/architecture.md#rooms) and `quire/ops/math/rope.h`.\n",
        "docs/architecture.md": "Back to [README](../README.md), out to [there](https://example.org).\n"
                                "```\n`quire/not/checked.h`\n```\n",
    }

    def plant(self, old, new, *words):
        self.assertIn(old, HEADER)
        self.check_fault({"quire/ops/math/rope.h": HEADER.replace(old, new)}, *words)

    def test_clean_tree(self):
        self.check_clean()

    def test_a_function_without_a_contract(self):
        self.plant("/// Turns pairs of a head by the angle of their position.\n", "", "rope.h:4: rope has no ///")

    def test_a_function_apart_from_its_group(self):
        self.plant("void rope_backward", "\nvoid rope_backward", "rope.h:7: rope_backward has no ///")

    def test_a_plain_comment_above(self):
        self.plant("/// Turns", "// Turns", "rope has no ///")

    def test_a_class_without_a_contract(self):
        self.plant("/// A head.\n", "", "Head has no ///")

    def test_an_enum_without_a_contract(self):
        self.plant("struct Later;", "enum class Pairing { kHalf };", "Pairing has no ///")

    def test_a_macro_without_a_contract(self):
        self.plant("/// The number of bytes.\n", "", "QUIRE_BYTES has no ///")

    def test_a_function_after_an_inner_namespace(self):
        self.plant("}  // namespace quire\n", "void last(int);\n}\n", "last has no ///")

    def test_a_dead_link(self):
        self.check_fault({"README.md": "[rooms](docs/rooms.md)\n"}, "README.md:1: the link docs/rooms.md")

    def test_a_dead_path(self):
        self.check_fault({"docs/architecture.md": "\nin `tools/gone.py`\n"}, "docs/architecture.md:2: tools/gone.py")


if __name__ == "__main__":
    unittest.main()
