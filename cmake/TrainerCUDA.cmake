# Whether libtrainer_cuda is built: TRAINER_BUILDS_CUDA, from TRAINER_WITH_CUDA and what is there.

set(TRAINER_BUILDS_CUDA OFF)
set(_no_cuda "")
if(NOT TRAINER_WITH_CUDA)
  set(_no_cuda "TRAINER_WITH_CUDA=${TRAINER_WITH_CUDA}")
elseif(NOT BUILD_SHARED_LIBS)
  set(_no_cuda "it and the program must share one libtrainer, and BUILD_SHARED_LIBS is off")
elseif(NOT LibTorch_HAS_CUDA)
  set(_no_cuda "${LibTorch_NO_CUDA_REASON}; see tools/setup.sh --cuda-build")
else()
  find_package(NCCL 2.18 QUIET)
  if(NCCL_FOUND)
    set(TRAINER_BUILDS_CUDA ON)
  else()
    set(_no_cuda "NCCL 2.18 or later was not found; run tools/setup.sh --cuda-build, or pass -DNCCL_ROOT")
  endif()
endif()

if(TRAINER_BUILDS_CUDA)
  message(STATUS "CUDA: libtrainer_cuda with NCCL ${NCCL_VERSION} (${NCCL_LIBRARY})")
elseif(TRAINER_WITH_CUDA STREQUAL "AUTO" OR NOT TRAINER_WITH_CUDA)
  message(STATUS "CUDA: not built, ${_no_cuda}")
else()
  message(FATAL_ERROR "TRAINER_WITH_CUDA=${TRAINER_WITH_CUDA}, but libtrainer_cuda cannot be built: ${_no_cuda}.")
endif()

# What libtrainer loads: a library of its own version.
set(trainer_cuda_file libtrainer_cuda.so.${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
