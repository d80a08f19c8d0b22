#include <trainer/data/readers/npy.h>

#include <cmath>
#include <limits>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using test::accepts;
using test::read_file;
using test::run_python;
using test::TempDir;
using test::thrown;
using test::write_file;

/// A file of version 1.0 with this dictionary and this data.
std::string npy_of(const std::string& dictionary, const std::string& data) {
  const std::string text = dictionary + "\n";
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(text.size() & 0xff) +
         static_cast<char>(text.size() >> 8) + text + data;
}

TEST(Npy, ReadsWhatNumpyWroteAndNumpyReadsWhatWeWrite) {
  const TempDir folder;
  run_python("data/readers/make_npy.py", {folder.path().string(), "make"});
  const auto index = test::index_of(folder);
  EXPECT_GT(index.size(), 500U);
  for (const auto& entry : index) {
    SCOPED_TRACE(entry.dump());
    const auto name = entry.at("file").get<std::string>();
    const auto tensor = read_npy(folder / name);
    test::expect_equals_raw(tensor, entry, folder);
    write_npy(folder / (name + ".ours"), tensor);
  }
  run_python("data/readers/make_npy.py", {folder.path().string(), "check"});
}

TEST(Npy, WritesViewsAsTheirValues) {
  const TempDir folder;
  const auto path = folder / "x.npy";
  const auto matrix = torch::arange(12, torch::kFloat32).view({3, 4}).requires_grad_();
  write_npy(path, matrix.t());
  EXPECT_TRUE(torch::equal(read_npy(path), matrix.t()));
  write_npy(path, matrix.slice(1, 1, 4, 2));
  EXPECT_TRUE(torch::equal(read_npy(path), matrix.slice(1, 1, 4, 2)));
  write_npy(path, matrix[0][0].expand({2, 3}));
  EXPECT_TRUE(torch::equal(read_npy(path), torch::zeros({2, 3})));

  const auto complex = torch::complex(torch::ones({2}), torch::ones({2}));
  write_npy(path, complex.conj());
  EXPECT_TRUE(torch::equal(read_npy(path), complex.conj().resolve_conj()));
  write_npy(path, torch::_neg_view(torch::ones({2})));
  EXPECT_TRUE(torch::equal(read_npy(path), -torch::ones({2})));
}

TEST(Npy, KeepsNanAndInfinity) {
  const TempDir folder;
  const float infinity = std::numeric_limits<float>::infinity();
  write_npy(folder / "x.npy", torch::tensor({std::nanf(""), infinity, -infinity}));
  const auto found = read_npy(folder / "x.npy");
  EXPECT_TRUE(found[0].isnan().item<bool>());
  EXPECT_EQ(found[1].item<float>(), infinity);
  EXPECT_EQ(found[2].item<float>(), -infinity);
}

TEST(Npy, RefusesTensorsThatNumpyCannotHold) {
  const TempDir folder;
  const auto path = folder / "x.npy";
  EXPECT_EQ(thrown<UsageError>([&] { write_npy(path, torch::ones({2}, torch::kBFloat16)); }),
            "write_npy: NumPy has no dtype for BFloat16. Convert the tensor, e.g. with "
            "tensor.to(torch::kFloat32).");
  const std::string no_values =
      "write_npy: the tensor is undefined, sparse or on the meta device. Give a dense one with "
      "values.";
  EXPECT_EQ(thrown<UsageError>([&] { write_npy(path, torch::Tensor()); }), no_values);
  EXPECT_EQ(thrown<UsageError>([&] { write_npy(path, torch::eye(2).to_sparse()); }), no_values);
  EXPECT_EQ(thrown<UsageError>([&] { write_npy(path, torch::empty({2}, torch::kMeta)); }),
            no_values);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THROW(write_npy(folder / "missing" / "x.npy", torch::ones({2})), IoError);
}

TEST(Npy, RefusesDtypesThatAreNotNumbers) {
  const TempDir folder;
  run_python("data/readers/make_npy.py", {folder.path().string(), "make"});
  const auto error = [&](const std::string& name) {
    const auto path = folder / name;
    return thrown<DataError>([&] { read_npy(path); }).substr(path.string().size());
  };
  EXPECT_EQ(error("objects.npy"),
            ": byte 21: the array holds Python objects (dtype '|O').\n"
            "  Reading them needs pickle, which can run any code: save numbers, as "
            "array.astype('float32').");
  EXPECT_EQ(error("fields.npy"),
            ": byte 20: the array has a structured dtype (named fields).\n"
            "  Save each field as an array of its own: numpy.save('x.npy', array['x']).");
  const std::string fix =
      " is not supported.\n  Save the array as bool, int, uint, float or complex numbers, e.g. "
      "array.astype('float32').";
  EXPECT_EQ(error("strings.npy"), ": byte 21: dtype '<U3'" + fix);
  EXPECT_EQ(error("dates.npy"), ": byte 21: dtype '<M8[D]'" + fix);
  EXPECT_EQ(error("longdouble.npy"), ": byte 21: dtype '<f16'" + fix);
}

TEST(Npy, RefusesEveryCutAndEverySurplus) {
  const TempDir folder;
  run_python("data/readers/make_npy.py", {folder.path().string(), "make"});
  for (const auto* name : {"small.npy", "bools.npy", "fortran.npy", "float64_4.npy"}) {
    const std::string whole = read_file(folder / name);
    ASSERT_TRUE(accepts([&] { read_npy(folder / name); }));
    for (size_t size = 0; size < whole.size(); ++size) {
      const auto cut = write_file(folder / "cut.npy", whole.substr(0, size));
      EXPECT_FALSE(accepts([&] { read_npy(cut); })) << name << " cut to " << size;
    }
    const auto longer = write_file(folder / "longer.npy", whole + '\0');
    EXPECT_FALSE(accepts([&] { read_npy(longer); })) << name;
  }
}

TEST(Npy, EveryChangedHeaderByteIsRefusedOrUsesTheSameData) {
  const TempDir folder;
  run_python("data/readers/make_npy.py", {folder.path().string(), "make"});
  const std::string whole = read_file(folder / "small.npy");
  test::for_every_changed_byte(whole, 0, 128, [&](const std::string& damaged, size_t at) {
    const auto path = write_file(folder / "damaged.npy", damaged);
    torch::Tensor found;
    if (accepts([&] { found = read_npy(path); })) {
      EXPECT_EQ(found.nbytes(), 48U) << "byte " << at;
    }
  });
}

TEST(Npy, AcceptsTheDictionaryInEveryOrderAndSpacing) {
  const TempDir folder;
  const auto path = folder / "x.npy";
  const auto expected = torch::tensor({1, 2}, torch::kUInt8);
  for (const auto* dictionary :
       {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }",
        "{\"shape\":(2,),\"descr\":\"<u1\",\"fortran_order\":True}",
        " { 'shape' : ( 2 , ) , 'fortran_order' : False , 'descr' : '>u1' , }    "}) {
    write_file(path, npy_of(dictionary, "\x01\x02"));
    EXPECT_TRUE(torch::equal(read_npy(path), expected)) << dictionary;
  }
}

TEST(Npy, RefusesEveryOtherHeader) {
  const TempDir folder;
  const std::string start = "{'descr': '|u1', 'fortran_order': False, 'shape': ";
  std::string ones;
  for (int i = 0; i < 65; ++i) {
    ones += "1,";
  }
  for (const std::string& dictionary :
       {std::string(),
        std::string("{}"),
        std::string("{"),
        std::string("[]"),
        std::string("{'descr': '|u1', 'fortran_order': False}"),
        start + "(2)}",
        start + "(2,}",
        start + "(2,)",
        start + "2}",
        start + "[2]}",
        start + "(2.0,)}",
        start + "(-2,)}",
        start + "(-5, 2)}",
        start + "(2L,)}",
        start + "(,)}",
        start + "(1,,2)}",
        start + "(9223372036854775808,)}",
        start + "(9223372036854775807,)}",
        start + "(4294967296, 4294967296)}",
        start + "(0, 4611686018427387904, 4611686018427387904)}",
        start + "(" + ones + ")}",
        start + "(2,)} x",
        start + "(2,), 'shape': (2,)}",
        start + "(2,), 'other': 1}",
        start + "(2,),, }",
        start + "(2,)}}",
        std::string("{'descr': '|u1', 'fortran_order': 0, 'shape': (2,)}"),
        std::string("{'descr': 'u1', 'fortran_order': False, 'shape': (2,)}"),
        std::string("{'descr': '=u1', 'fortran_order': False, 'shape': (2,)}"),
        std::string("{'descr': '|u2', 'fortran_order': False, 'shape': (1,)}"),
        std::string("{'descr': '', 'fortran_order': False, 'shape': (2,)}"),
        std::string("{'descr': '|u1, 'fortran_order': False, 'shape': (2,)}"),
        std::string("{'descr': '|u1\", 'fortran_order': False, 'shape': (2,)}")}) {
    const auto path = write_file(folder / "x.npy", npy_of(dictionary, "\x01\x02"));
    EXPECT_FALSE(accepts([&] { read_npy(path); })) << dictionary;
  }
  const auto path = write_file(folder / "x.npy", npy_of(start + "(2,)}", "\x01\x02"));
  EXPECT_TRUE(accepts([&] { read_npy(path); }));
}

TEST(Npy, ErrorsNameTheOffsetAndWhatWasExpected) {
  const TempDir folder;
  const auto path = folder / "x.npy";
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    return thrown<DataError>([&] { read_npy(path); }).substr(path.string().size());
  };
  const std::string fix = "\n  This is no NPY file, or it is damaged: make or download it again.";
  const std::string bools = "{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2)}";
  EXPECT_EQ(error(""), ": byte 0: the file does not start with the magic number of NPY." + fix);
  EXPECT_EQ(error(std::string("\x93NUMPY\x04\x00\x00\x00", 10)),
            ": byte 6: format version 4.0, not one of 1.0, 2.0, 3.0." + fix);
  EXPECT_EQ(error(npy_of(bools, "").substr(0, 40)),
            ": byte 40: the file ends inside its header of 58 bytes." + fix);
  EXPECT_EQ(
      error(npy_of("{'order': 1}", "")),
      ": byte 12: a key that is repeated or not one of 'descr', 'fortran_order', 'shape'." + fix);
  EXPECT_EQ(error(npy_of("{'shape': (2)}", "")),
            ": byte 22: a shape of one dimension without its comma, as in (3,)." + fix);
  EXPECT_EQ(error(npy_of(bools, std::string("\1\0\1", 3))),
            ": byte 68: shape [2, 2] of 1-byte elements takes 4 bytes from here, the file holds 3: "
            "record 2 of 2 is incomplete.\n  The file is cut: copy or download it again.");
  EXPECT_EQ(error(npy_of(bools, std::string("\1\0\2\0", 4))),
            ": byte 70: record 2 of 2: a bool is 2, neither 0 nor 1.\n"
            "  The file or its dtype is damaged: make or download it again.");
}

TEST(Npy, ReplacesTheFileAtOnce) {
  const TempDir folder;
  write_npy(folder / "x.npy", torch::zeros({100}));
  write_npy(folder / "x.npy", torch::ones({2}));
  EXPECT_TRUE(torch::equal(read_npy(folder / "x.npy"), torch::ones({2})));
  size_t num_files = 0;
  for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator(folder.path())) {
    ++num_files;
  }
  EXPECT_EQ(num_files, 1U);
}

}  // namespace
}  // namespace trainer::data
