#include <trainer/optim/option_fields.h>

namespace trainer::detail {
namespace {

template <class Options>
std::vector<OptionField> adam_fields(Options& options) {
  return {{"lr", &options.lr()},
          {"betas", &options.betas()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()},
          {"amsgrad", &options.amsgrad()}};
}

}  // namespace

std::vector<OptionField> option_fields(torch::optim::AdagradOptions& options) {
  return {{"lr", &options.lr()},
          {"lr_decay", &options.lr_decay()},
          {"weight_decay", &options.weight_decay()},
          {"initial_accumulator_value", &options.initial_accumulator_value()},
          {"eps", &options.eps()}};
}

std::vector<OptionField> option_fields(torch::optim::AdamOptions& options) {
  return adam_fields(options);
}

std::vector<OptionField> option_fields(torch::optim::AdamWOptions& options) {
  return adam_fields(options);
}

std::vector<OptionField> option_fields(torch::optim::LBFGSOptions& options) {
  return {{"lr", &options.lr()},
          {"max_iter", &options.max_iter()},
          {"max_eval", &options.max_eval()},
          {"tolerance_grad", &options.tolerance_grad()},
          {"tolerance_change", &options.tolerance_change()},
          {"history_size", &options.history_size()},
          {"line_search_fn", &options.line_search_fn()}};
}

std::vector<OptionField> option_fields(torch::optim::RMSpropOptions& options) {
  return {{"lr", &options.lr()},
          {"alpha", &options.alpha()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()},
          {"momentum", &options.momentum()},
          {"centered", &options.centered()}};
}

std::vector<OptionField> option_fields(torch::optim::SGDOptions& options) {
  return {{"lr", &options.lr()},
          {"momentum", &options.momentum()},
          {"dampening", &options.dampening()},
          {"weight_decay", &options.weight_decay()},
          {"nesterov", &options.nesterov()}};
}

}  // namespace trainer::detail
