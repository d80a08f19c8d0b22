#include <trainer/cli/cli.h>

int main(int argc, char** argv) { return trainer::cli(argc, argv); }
