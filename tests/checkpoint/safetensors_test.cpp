#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "safetensors_fixture.h"
#include <trainer/checkpoint/safetensors.h>
#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer::safetensors {
namespace {

using test::read_file;
using test::thrown;
using test::write_file;

using namespace std::string_literals;

constexpr std::array kAllDtypes = {
    torch::kBool,           torch::kUInt8,           torch::kInt8,           torch::kInt16,
    torch::kUInt16,         torch::kInt32,           torch::kUInt32,         torch::kInt64,
    torch::kUInt64,         torch::kFloat16,         torch::kBFloat16,       torch::kFloat32,
    torch::kFloat64,        torch::kComplexFloat,    torch::kFloat8_e5m2,    torch::kFloat8_e4m3fn,
    torch::kFloat8_e8m0fnu, torch::kFloat8_e4m3fnuz, torch::kFloat8_e5m2fnuz};

/// Every bit pattern may occur: NaN payloads and negative zeros must survive too.
torch::Tensor random_tensor(torch::IntArrayRef shape, torch::ScalarType dtype) {
  torch::Tensor tensor = torch::empty(shape, dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.mutable_data_ptr());
  static std::mt19937 random(1);
  for (size_t i = 0; i < tensor.nbytes(); ++i) {
    bytes[i] = static_cast<unsigned char>(dtype == torch::kBool ? random() % 2 : random());
  }
  return tensor;
}

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  return a.dtype() == b.dtype() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

Tensors tensors_of_every_dtype() {
  Tensors tensors;
  for (const auto dtype : kAllDtypes) {
    const std::string name = c10::toString(dtype);
    tensors.emplace_back(name + ".matrix", random_tensor({3, 5}, dtype));
    tensors.emplace_back(name + ".scalar", random_tensor({}, dtype));
    tensors.emplace_back(name + ".empty", random_tensor({2, 0, 4}, dtype));
  }
  return tensors;
}

TEST_F(Safetensors, RoundTripKeepsEveryBitOfEveryDtype) {
  const Tensors tensors = tensors_of_every_dtype();
  save(path_, tensors);
  const File file(path_);
  EXPECT_EQ(file.names().size(), tensors.size());
  EXPECT_EQ(load(path_).size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(same_bits(file.tensor(name), tensor)) << name;
    EXPECT_EQ(file.info(name).dtype, tensor.scalar_type()) << name;
    EXPECT_EQ(torch::IntArrayRef(file.info(name).shape), tensor.sizes()) << name;
    EXPECT_EQ(file.info(name).bytes, tensor.nbytes()) << name;
    EXPECT_EQ(file.info(name).offset % tensor.element_size(), 0) << name;
  }
  for (const auto& [name, tensor] : load(path_)) {
    EXPECT_TRUE(same_bits(tensor, file.tensor(name))) << name;
  }
}

TEST_F(Safetensors, PythonReadsOurFileAndWritesTheSameBytes) {
  save(path_, tensors_of_every_dtype());
  const fs::Path rewritten = folder_ / "python.safetensors";
  python({"rewrite", path_.string(), rewritten.string()});
  const std::string ours = read_file(path_);
  ASSERT_GT(ours.size(), 1000);
  EXPECT_TRUE(read_file(rewritten) == ours);
}

TEST_F(Safetensors, ReadsWhatPythonWrites) {
  python({"write", path_.string()});
  const File file(path_);
  EXPECT_TRUE(file.metadata().empty());
  EXPECT_EQ(file.names().size(), 16);
  const auto expected = torch::arange(6).view({2, 3});
  for (const auto& [name, dtype] :
       std::map<std::string, torch::ScalarType>{{"U8", torch::kUInt8},
                                                {"I8", torch::kInt8},
                                                {"U16", torch::kUInt16},
                                                {"I16", torch::kInt16},
                                                {"U32", torch::kUInt32},
                                                {"I32", torch::kInt32},
                                                {"U64", torch::kUInt64},
                                                {"I64", torch::kInt64},
                                                {"F16", torch::kFloat16},
                                                {"BF16", torch::kBFloat16},
                                                {"F32", torch::kFloat32},
                                                {"F64", torch::kFloat64},
                                                {"C64", torch::kComplexFloat},
                                                {"BOOL", torch::kBool}}) {
    EXPECT_TRUE(same_bits(file.tensor(name), expected.to(dtype))) << name;
  }
  EXPECT_TRUE(same_bits(file.tensor("scalar \xCE\xB2"), torch::tensor(int64_t{7})));
  EXPECT_TRUE(same_bits(file.tensor("empty"), torch::empty({0, 4})));
}

TEST_F(Safetensors, NamesAndMetadataSurviveAnyText) {
  const auto odd = "quote \" slash \\ tab \t nul \0 del \x7F beta \xCE\xB2 smile \xF0\x9F\x98\x80"s;
  save(path_, {{odd, torch::ones(2)}, {"", torch::zeros(3)}}, {{odd, odd}});
  const File file(path_);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"", odd}));
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}, {odd, odd}}));
  const fs::Path rewritten = folder_ / "python.safetensors";
  python({"rewrite", path_.string(), rewritten.string()});
  EXPECT_EQ(File(rewritten).names(), file.names());
  EXPECT_EQ(File(rewritten).metadata(), file.metadata());
}

TEST_F(Safetensors, MetadataMayNameAnotherFormat) {
  save(path_, {}, {{"format", "np"}});
  EXPECT_EQ(File(path_).metadata(), (Metadata{{"format", "np"}}));
  EXPECT_TRUE(File(path_).names().empty());
}

TEST_F(Safetensors, DataIsOrderedByAlignmentThenName) {
  const Tensors tensors = {{"d", torch::ones(1, torch::kUInt8)},
                           {"a", torch::ones(1)},
                           {"c", torch::ones(1, torch::kInt64)},
                           {"B", torch::ones(1)}};
  save(path_, tensors);
  EXPECT_EQ(File(path_).names(), (std::vector<std::string>{"c", "B", "a", "d"}));
  const std::string bytes = read_file(path_);
  save(path_, {tensors.rbegin(), tensors.rend()});
  EXPECT_TRUE(read_file(path_) == bytes);
}

TEST_F(Safetensors, SavesTheValuesOfAnyView) {
  const auto matrix = torch::arange(12, torch::kFloat32).view({3, 4}).requires_grad_();
  const auto complex = torch::complex(torch::ones(2), torch::ones(2));
  save(path_, {{"matrix", matrix},
               {"transposed", matrix.t()},  // of the same memory
               {"expanded", torch::ones({1, 3}).expand({2, 3})},
               {"conjugate", complex.conj()},
               {"negative", torch::_neg_view(torch::ones(2))}});
  const File file(path_);
  EXPECT_TRUE(torch::equal(file.tensor("matrix"), matrix));
  EXPECT_TRUE(torch::equal(file.tensor("transposed"), matrix.t()));
  EXPECT_TRUE(torch::equal(file.tensor("expanded"), torch::ones({2, 3})));
  EXPECT_TRUE(torch::equal(torch::imag(file.tensor("conjugate")), -torch::ones(2)));
  EXPECT_TRUE(torch::equal(file.tensor("negative"), -torch::ones(2)));
}

TEST_F(Safetensors, TensorSharesTheMappingAndOutlivesFileAndPath) {
  const auto expected = random_tensor({1000, 7}, torch::kFloat32);
  save(path_, {{"w", expected}});
  torch::Tensor view;
  {
    const File file(path_);
    view = file.tensor("w");
    EXPECT_EQ(view.const_data_ptr(), file.tensor("w").const_data_ptr());
  }
  std::filesystem::remove(path_);
  EXPECT_TRUE(same_bits(view, expected));
}

TEST_F(Safetensors, LoadCopiesSoThatTensorsMayBeChanged) {
  save(path_, {{"w", torch::ones({2, 3})}});
  const Tensors tensors = load(path_);
  tensors[0].second.add_(1);
  EXPECT_TRUE(torch::equal(File(path_).tensor("w"), torch::ones({2, 3})));
  EXPECT_TRUE(torch::equal(tensors[0].second, torch::full({2, 3}, 2.0)));
}

TEST_F(Safetensors, UnalignedDataIsReadAsACopy) {
  const float value = 1.5;
  const std::string data =
      std::string("\x2A", 1) + std::string(reinterpret_cast<const char*>(&value), 4);
  // Neither the header's length nor the order of the tensors aligns the data.
  write_file(path_, file_bytes(R"({"b":{"dtype":"F32","shape":[],"data_offsets":[1,5]},)"
                               R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                               data));
  const File file(path_);
  ASSERT_NE(file.info("b").offset % 4, 0);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(file.tensor("a").item<int>(), 42);
  EXPECT_EQ(file.tensor("b").item<float>(), 1.5);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.tensor("b").const_data_ptr()) % 4, 0);
}

TEST_F(Safetensors, UnknownTensorIsRefusedWithThoseThereAre) {
  save(path_, {{"a", torch::ones(1)}, {"b", torch::ones(1)}});
  const File file(path_);
  EXPECT_TRUE(file.contains("a"));
  EXPECT_FALSE(file.contains("c"));
  EXPECT_EQ(thrown<CheckpointError>([&] { file.tensor("c"); }),
            path_.string() + ": has no tensor \"c\". It holds 2 tensors: \"a\", \"b\".");
}

TEST_F(Safetensors, MissingFileIsADataError) { EXPECT_THROW(File{path_}, DataError); }

TEST_F(Safetensors, FullDiskIsAnIoError) {
  EXPECT_THROW(save("/dev/full", {{"w", torch::ones(1)}}), IoError);
}

TEST_F(Safetensors, SaveRefusesWhatTheFormatCannotHold) {
  const auto save_refusal = [&](const Tensors& tensors, const Metadata& metadata = {}) {
    return thrown<UsageError>([&] { save(path_, tensors, metadata); });
  };
  const std::string prefix = path_.string() + ": cannot save: ";
  const auto one = torch::ones(1);
  EXPECT_EQ(save_refusal({{"w", one}, {"w", torch::ones(1, torch::kInt64)}}),
            prefix + "two tensors have the name \"w\". Rename one.");
  EXPECT_EQ(save_refusal({{"__metadata__", one}}),
            prefix + "the format reserves the name \"__metadata__\". Rename the tensor.");
  EXPECT_EQ(save_refusal({{"w", torch::ones(1, torch::kComplexDouble)}}),
            prefix +
                "tensor \"w\" has dtype ComplexDouble, which safetensors cannot hold. Convert it "
                "to one of BOOL, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, "
                "I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64.");
  const std::string not_dense =
      prefix +
      "tensor \"w\" is undefined, sparse, nested or on the meta device. Save dense "
      "tensors that have data.";
  EXPECT_EQ(save_refusal({{"w", torch::Tensor()}}), not_dense);
  EXPECT_EQ(save_refusal({{"w", one.to_sparse()}}), not_dense);
  EXPECT_EQ(save_refusal({{"w", one.to(torch::kMeta)}}), not_dense);
  EXPECT_EQ(save_refusal({{"w", torch::ones(std::vector<int64_t>(65, 1))}}),
            prefix + "tensor \"w\" has 65 dimensions, more than 64. Flatten some of them.");
  EXPECT_EQ(save_refusal({{"w\xFF", one}}),
            prefix + "\"w\\ufffd\" is not UTF-8. Names and metadata must be.");
  EXPECT_EQ(save_refusal({}, {{"k", "\xFF"}}),
            prefix + "\"\\ufffd\" is not UTF-8. Names and metadata must be.");
  EXPECT_EQ(save_refusal({}, {{"k", std::string(100'000'000, 'x')}}),
            prefix +
                "the names and metadata take 100000040 bytes, more than the 100000000 of the "
                "format. Spread the tensors over several files.");
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace trainer::safetensors
