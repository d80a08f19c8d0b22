#include <trainer/builtins.h>

#include <mutex>

#include <callbacks/early_stopping.h>
#include <callbacks/learning_rate_monitor.h>
#include <callbacks/model_checkpoint.h>
#include <callbacks/model_summary.h>
#include <callbacks/progress_bar.h>
#include <loggers/csv_logger.h>
#include <loggers/jsonl_logger.h>
#include <loggers/tensorboard_logger.h>
#include <strategies/cast_compress.h>
#include <strategies/comm/cluster.h>
#include <strategies/cuda_accelerator.h>
#include <strategies/comm/launcher.h>
#include <strategies/ddp.h>
#include <strategies/fsdp.h>
#include <strategies/power_sgd.h>
#include <strategies/single_device.h>

#include <trainer/accelerator.h>
#include <trainer/core/registry.h>
#include <trainer/job.h>
#include <trainer/optim/factories.h>
#include <trainer/optim/lr_scheduler_factory.h>
#include <trainer/optim/lr_schedules.h>
#include <trainer/optim/reduce_lr_on_plateau.h>
#include <trainer/world.h>

namespace trainer {

namespace {

/// Stays "auto" in configurations, so that one goes for any number of processes.
ClassInfo auto_strategy() {
  ClassInfo info = class_info<SingleDevice>("auto");
  info.doc = "DDP for several processes, SingleDevice for one.";
  info.create = [](const config::Node&) -> std::shared_ptr<void> {
    std::shared_ptr<Strategy> strategy = std::make_shared<SingleDevice>();
    if (world().size() > 1) {
      strategy = std::make_shared<DDP>();
    }
    return strategy;
  };
  return info;
}

}  // namespace

void register_builtins() {
  static std::once_flag once;
  std::call_once(once, [] {
    set_world_factory(join_world);
    set_launcher(launch_with_mpirun);
    set_job_command(command_with_mpirun);
    registry::Load load("built in");
    register_class<AutoAccelerator>({"auto"});
    register_class<CPUAccelerator>({"cpu"});
    register_class<CUDAAccelerator>({"cuda", "gpu"});
    register_class<DDP>({"ddp"});
    register_class<FSDP>({"fsdp"});
    register_class<BF16Compress>();
    register_class<FP16Compress>();
    register_class<PowerSGD>();
    register_class<SingleDevice>({"single_device"});
    registry::add(Strategy::kKind, auto_strategy());
    register_class<EarlyStopping>();
    register_class<LearningRateMonitor>();
    register_class<ModelCheckpoint>();
    register_class<ModelSummary>();
    register_class<ProgressBar>();
    register_class<CSVLogger>();
    register_class<JSONLLogger>();
    register_class<TensorBoardLogger>();
    register_class<optim::factory::Adagrad>();
    register_class<optim::factory::Adam>();
    register_class<optim::factory::AdamW>();
    register_class<optim::factory::LAMB>();
    register_class<optim::factory::LBFGS>();
    register_class<optim::factory::Lion>();
    register_class<optim::factory::Muon>();
    register_class<optim::factory::RMSprop>();
    register_class<optim::factory::SGD>();
    register_class<optim::factory::ScheduleFreeAdamW>();
    register_lr_scheduler<ChainedScheduler>();
    register_lr_scheduler<ConstantLR>();
    register_lr_scheduler<CosineAnnealingLR>();
    register_lr_scheduler<CosineAnnealingWarmRestarts>();
    register_lr_scheduler<ExponentialLR>();
    register_lr_scheduler<LinearLR>();
    register_lr_scheduler<LinearWarmupLR>();
    register_lr_scheduler<MultiStepLR>();
    register_lr_scheduler<OneCycleLR>();
    register_lr_scheduler<PolynomialLR>();
    register_lr_scheduler<ReduceLROnPlateau>();
    register_lr_scheduler<SequentialLR>();
    register_lr_scheduler<StepLR>();
    register_lr_scheduler<WarmupCosineLR>();
    register_lr_scheduler<WSDLR>();
    load.commit();
  });
}

}  // namespace trainer
