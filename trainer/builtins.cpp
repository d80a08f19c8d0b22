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
#include <strategies/single_device.h>

#include <trainer/accelerator.h>
#include <trainer/core/registry.h>
#include <trainer/optim/factories.h>

namespace trainer {

void register_builtins() {
  static std::once_flag once;
  std::call_once(once, [] {
    registry::Load load("built in");
    register_class<CPUAccelerator>({"auto", "cpu"});
    register_class<SingleDevice>({"auto", "single_device"});
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
    load.commit();
  });
}

}  // namespace trainer
