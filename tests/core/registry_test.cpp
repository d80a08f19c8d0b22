#include <trainer/core/registry.h>

#include <gtest/gtest.h>

#include <tests/support/thrown.h>

namespace trainer {

// A kind of the tests' own, so that what they register stands in nobody's way.
struct Animal {
  using Base = Animal;
  static constexpr const char* kKind = "animal";
  virtual ~Animal() = default;
  virtual std::string sound() const = 0;
};

struct Dog : Animal {
  static constexpr const char* kDoc = "Barks.";
  struct Init {
    int64_t times = 2;
    std::string word = "wuff";
    static constexpr auto fields() {
      return std::tuple{config::field<&Init::times>("How often.", config::at_least(1)),
                        config::field<&Init::word>("What.")};
    }
  };
  explicit Dog(Init init) : init_(std::move(init)) {}
  std::string sound() const override {
    std::string all;
    for (int64_t i = 0; i < init_.times; ++i) {
      all += init_.word;
    }
    return all;
  }
  Init init_;
};

struct Fish : Animal {
  std::string sound() const override { return "blub"; }
};

struct Snail : Animal {
  std::string sound() const override { return ""; }
};

namespace impostor {
struct Dog : Animal {
  std::string sound() const override { return "meow"; }
};
}  // namespace impostor

namespace {

using test::thrown;

const bool kRegistered = register_class<Dog>({"hound"}) && register_class<Fish>();

Spec<Animal> read_spec(const std::string& yaml) {
  config::Diagnostics diagnostics;
  auto spec = config::read<Spec<Animal>>(config::parse_yaml(yaml, "c.yaml"), "pet", diagnostics);
  diagnostics.throw_if_any();
  return spec;
}

std::string error_of(const std::string& yaml) {
  return thrown<ConfigError>([&] { read_spec(yaml); });
}

TEST(Registry, FindsAClassByNameAndAlias) {
  ASSERT_TRUE(kRegistered);
  const auto dog = registry::find("animal", "Dog");
  ASSERT_NE(dog, nullptr);
  EXPECT_EQ(dog->doc, "Barks.");
  EXPECT_EQ(dog->origin, "this program");
  EXPECT_EQ(dog->fields.at(0).rules, ">= 1");
  EXPECT_EQ(registry::find("animal", "hound"), dog);
  EXPECT_EQ(registry::find("animal", "dog"), nullptr);
  EXPECT_EQ(registry::find("plant", "Dog"), nullptr);
  EXPECT_TRUE(registry::list("plant").empty());
}

TEST(Registry, TakesTheSameClassAgainAndRefusesAnotherOfItsName) {
  EXPECT_TRUE(register_class<Dog>({"hound"}));
  EXPECT_EQ(
      thrown<UsageError>([] { register_class<impostor::Dog>(); }),
      "the animal 'Dog' is registered twice (this program; this program). Rename one of them.");
  EXPECT_EQ(Spec<Animal>("Dog").create()->sound(), "wuffwuff");
}

TEST(Load, NamesWhereItsClassesComeFromAndAddsThemAtItsEnd) {
  {
    registry::Load load("plug-in snail");
    registry::add_at_start([] { return register_class<Snail>(); });
    EXPECT_EQ(registry::find("animal", "Snail"), nullptr);
    load.commit();
  }
  EXPECT_EQ(registry::find("animal", "Snail")->origin, "plug-in snail");
}

struct Otter : Fish {};

TEST(Load, AddsNothingWhenItIsNotCommittedOrANameIsTaken) {
  {
    registry::Load load("plug-in otter");
    register_class<Otter>();
    registry::add_at_start([]() -> bool { throw InternalError("is not to be called"); });
  }
  EXPECT_EQ(registry::find("animal", "Otter"), nullptr);
  registry::Load load("plug-in impostor");
  register_class<Otter>();
  register_class<impostor::Dog>();
  EXPECT_EQ(thrown<ConfigError>([&] { load.commit(); }),
            "the animal 'Dog' is registered twice (this program; plug-in impostor). Rename one of "
            "them.");
  EXPECT_EQ(registry::find("animal", "Otter"), nullptr);
}

TEST(Spec, IsReadFromANameOrFromAMap) {
  EXPECT_EQ(read_spec("Dog").create()->sound(), "wuffwuff");
  EXPECT_EQ(read_spec("{class_path: hound, init_args: {times: 1}}").create()->sound(), "wuff");
  EXPECT_EQ(read_spec("{class_path: Fish, init_args: }").create()->sound(), "blub");
}

TEST(Spec, IsCompletedWithDefaultsAndTheFullName) {
  const std::string complete = "class_path: Dog\ninit_args:\n  times: 2\n  word: wuff\n";
  EXPECT_EQ(config::to_yaml(config::write(read_spec("hound"))), complete);
  EXPECT_EQ(config::to_yaml(config::write(read_spec(complete))), complete);
  EXPECT_EQ(config::to_yaml(config::write(read_spec("Fish"))), "class_path: Fish\ninit_args: {}\n");
}

TEST(Spec, NamesWhatIsWrong) {
  EXPECT_EQ(error_of("Dgo"),
            "c.yaml:1:1: pet: unknown animal 'Dgo'. Did you mean 'Dog'? `trainer list` shows what "
            "there is; a class of a plug-in needs `plugins: [name]` or --plugin.");
  EXPECT_EQ(error_of("{init_args: {}}"), "c.yaml:1:1: pet: needs class_path, the animal's name.");
  EXPECT_EQ(error_of("[Dog]"),
            "c.yaml:1:1: pet: is a list, which names no animal. Write its name, or "
            "{class_path: ..., init_args: {...}}.");
  EXPECT_EQ(error_of("{class_path: Dog, init_args: {times: 0, wrd: x}}"),
            "c.yaml:1:38: pet.init_args.times: is '0': must be at least 1.\n"
            "c.yaml:1:41: pet.init_args.wrd: unknown key. Did you mean 'word'?");
  EXPECT_EQ(error_of("{class_path: Fish, init_args: {size: 3}}"),
            "c.yaml:1:32: pet.init_args.size: unknown key.");
  EXPECT_EQ(error_of("{class_path: Dog, init_arg: {}}"),
            "c.yaml:1:19: pet.init_arg: unknown key. Did you mean 'init_args'?");
  EXPECT_EQ(error_of("{class_path: Dog, word: x}"),
            "c.yaml:1:19: pet.word: unknown key. It is an argument of Dog: write "
            "pet.init_args.word.");
}

TEST(Spec, ThatIsMadeInCodeIsCheckedWhenItIsUsed) {
  EXPECT_THROW(Spec<Animal>("Cat").create(), ConfigError);
  EXPECT_EQ(thrown<ConfigError>([] { use<Dog>({.times = 0}).create(); }),
            "in code: Dog.times: is '0': must be at least 1.");
  EXPECT_EQ(use<Dog>({.times = 3, .word = "x"}).create()->sound(), "xxx");
}

struct Asp : Fish {};
struct Zebra : Fish {};

TEST(Registry, FindsAClassByItsOwnNameThoughAnotherHasItAsAlias) {
  register_class<Asp>({"Zebra"});
  register_class<Zebra>();
  EXPECT_EQ(registry::find("animal", "Zebra")->name, "Zebra");
}

struct Newt : Animal {
  std::string sound() const override { return "hiss"; }
};

TEST(Use, RegistersTheClassWhereItIsNotYet) {
  EXPECT_EQ(registry::find("animal", "Newt"), nullptr);
  EXPECT_EQ(use<Newt>().create()->sound(), "hiss");
  EXPECT_NE(registry::find("animal", "Newt"), nullptr);
}

TEST(Use, MeansTheClassThatItNames) {
  EXPECT_THROW(use<impostor::Dog>(), UsageError) << "another class is registered as Dog";
}

}  // namespace
}  // namespace trainer
