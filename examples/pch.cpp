// Holds the precompiled <trainer/api.h> that the examples share; there is nothing to compile here.
