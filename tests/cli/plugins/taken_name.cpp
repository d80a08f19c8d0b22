// A plug-in, and a program, with a callback that has the name of a built-in one.

#include <trainer/cli/cli.h>

#include "callback.h"

struct Harmless : CallbackName {};
struct EarlyStopping : CallbackName {};

TRAINER_REGISTER_CALLBACK(Harmless);
TRAINER_REGISTER_CALLBACK(EarlyStopping);

int main(int argc, char** argv) { return trainer::cli(argc, argv); }
