// The `trainer` program: the classes of this library, and those of plug-ins.

#include <trainer/cli/cli.h>

int main(int argc, char** argv) { return trainer::cli(argc, argv); }
