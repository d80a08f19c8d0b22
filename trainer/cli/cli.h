#pragma once
// The command line: `int main(int argc, char** argv) { return trainer::cli(argc, argv); }` makes a
// program of your own that runs the classes it registers; the `trainer` program is the same with
// plug-ins.

namespace trainer {

/// Runs one command (fit, validate, test, predict, list, schema, describe-sharding, checkpoint,
/// launch) and returns the process's exit code (trainer/core/error.h). Never throws: every error is
/// printed with what happened, where, and how to fix it.
int cli(int argc, char** argv);

}  // namespace trainer
