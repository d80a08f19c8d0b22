// Compiled as several plug-ins: each has a class Kite of its own.

#include "callback.h"

struct Kite : CallbackName {};

TRAINER_REGISTER_CALLBACK(Kite);
