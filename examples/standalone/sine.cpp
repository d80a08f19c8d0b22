// Lets YAML name the classes.

#include "sine.h"

TRAINER_REGISTER_DATA_MODULE(SineData);
TRAINER_REGISTER_MODULE(SineNet);
