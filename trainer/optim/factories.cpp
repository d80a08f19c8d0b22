#include <trainer/optim/factories.h>

#include <trainer/optim/adagrad.h>
#include <trainer/optim/adam.h>
#include <trainer/optim/adamw.h>
#include <trainer/optim/lamb.h>
#include <trainer/optim/lbfgs.h>
#include <trainer/optim/lion.h>
#include <trainer/optim/muon.h>
#include <trainer/optim/rmsprop.h>
#include <trainer/optim/schedule_free_adamw.h>
#include <trainer/optim/sgd.h>

namespace trainer::optim::factory {
namespace {

using torch::nn::Module;
using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

template <class O, class Options, class Init>
OptimizerPtr make(const Module& module, const Options& options, const Init& init) {
  return std::make_unique<O>(
      parameter_groups(module, options, {.no_decay = init.no_decay, .groups = init.groups}));
}

}  // namespace

OptimizerPtr AdamW::create(const Module& module) const {
  return make<optim::AdamW>(module,
                            AdamWOptions(init_.lr)
                                .betas({init_.betas[0], init_.betas[1]})
                                .eps(init_.eps)
                                .weight_decay(init_.weight_decay)
                                .amsgrad(init_.amsgrad),
                            init_);
}

OptimizerPtr Adam::create(const Module& module) const {
  return make<optim::Adam>(module,
                           AdamOptions(init_.lr)
                               .betas({init_.betas[0], init_.betas[1]})
                               .eps(init_.eps)
                               .weight_decay(init_.weight_decay)
                               .amsgrad(init_.amsgrad),
                           init_);
}

OptimizerPtr SGD::create(const Module& module) const {
  return make<optim::SGD>(module,
                          SGDOptions(init_.lr)
                              .momentum(init_.momentum)
                              .dampening(init_.dampening)
                              .weight_decay(init_.weight_decay)
                              .nesterov(init_.nesterov),
                          init_);
}

OptimizerPtr Adagrad::create(const Module& module) const {
  return make<optim::Adagrad>(module,
                              AdagradOptions(init_.lr)
                                  .lr_decay(init_.lr_decay)
                                  .weight_decay(init_.weight_decay)
                                  .initial_accumulator_value(init_.initial_accumulator_value)
                                  .eps(init_.eps),
                              init_);
}

OptimizerPtr RMSprop::create(const Module& module) const {
  return make<optim::RMSprop>(module,
                              RMSpropOptions(init_.lr)
                                  .alpha(init_.alpha)
                                  .eps(init_.eps)
                                  .weight_decay(init_.weight_decay)
                                  .momentum(init_.momentum)
                                  .centered(init_.centered),
                              init_);
}

OptimizerPtr LAMB::create(const Module& module) const {
  return make<optim::LAMB>(module,
                           LAMBOptions(init_.lr)
                               .betas({init_.betas[0], init_.betas[1]})
                               .eps(init_.eps)
                               .weight_decay(init_.weight_decay),
                           init_);
}

OptimizerPtr Lion::create(const Module& module) const {
  return make<optim::Lion>(module,
                           LionOptions(init_.lr)
                               .betas({init_.betas[0], init_.betas[1]})
                               .weight_decay(init_.weight_decay),
                           init_);
}

OptimizerPtr Muon::create(const Module& module) const {
  return make<optim::Muon>(module,
                           MuonOptions(init_.lr)
                               .weight_decay(init_.weight_decay)
                               .momentum(init_.momentum)
                               .nesterov(init_.nesterov)
                               .ns_coefficients({init_.ns_coefficients[0], init_.ns_coefficients[1],
                                                 init_.ns_coefficients[2]})
                               .eps(init_.eps)
                               .ns_steps(init_.ns_steps)
                               .adjust_lr_fn(init_.adjust_lr_fn),
                           init_);
}

OptimizerPtr ScheduleFreeAdamW::create(const Module& module) const {
  return make<optim::ScheduleFreeAdamW>(module,
                                        ScheduleFreeAdamWOptions(init_.lr)
                                            .betas({init_.betas[0], init_.betas[1]})
                                            .eps(init_.eps)
                                            .weight_decay(init_.weight_decay)
                                            .warmup_steps(init_.warmup_steps)
                                            .r(init_.r)
                                            .weight_lr_power(init_.weight_lr_power),
                                        init_);
}

OptimizerPtr LBFGS::create(const Module& module) const {
  auto groups = detail::split_parameters(module, {});
  return std::make_unique<optim::LBFGS>(std::move(groups[0].parameters),
                                        LBFGSOptions(init_.lr)
                                            .max_iter(init_.max_iter)
                                            .max_eval(init_.max_eval)
                                            .tolerance_grad(init_.tolerance_grad)
                                            .tolerance_change(init_.tolerance_change)
                                            .history_size(init_.history_size)
                                            .line_search_fn(init_.line_search_fn));
}

}  // namespace trainer::optim::factory
