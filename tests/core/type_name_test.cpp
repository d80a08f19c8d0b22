#include <trainer/core/type_name.h>

#include <vector>

#include <gtest/gtest.h>

struct Outside {};

namespace trainer {
namespace inside {
struct Net {
  struct Part {};
};
template <class T>
struct Wrapped {};
}  // namespace inside

TEST(TypeName, LeavesNamespacesOut) {
  EXPECT_EQ(type_name(typeid(Outside)), "Outside");
  EXPECT_EQ(type_name(typeid(inside::Net)), "Net");
  EXPECT_EQ(type_name(typeid(inside::Net::Part)), "Part");
}

TEST(TypeName, KeepsTemplateArgumentsWhole) {
  EXPECT_EQ(type_name(typeid(inside::Wrapped<inside::Net>)), "Wrapped<trainer::inside::Net>");
}

}  // namespace trainer
