// A Trainer made by hand, without YAML.

#include <cstdio>

#include "sine.h"

int main() {
  trainer::seed_everything(42);
  SineNet net({.hidden = 64});
  SineData data({.num_samples = 2048});
  trainer::Trainer trainer({
      .max_epochs = 20,
      .callbacks = {trainer::use<trainer::EarlyStopping>({.monitor = "val_loss", .patience = 5})},
      .logger = {"CSVLogger"},
      .default_root_dir = "runs",
  });
  trainer.fit(net, data);
  std::printf("val_loss %.5f\n", trainer.validate(net, data, "best").at("val_loss"));
}
