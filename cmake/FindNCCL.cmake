# Finds NCCL: in NCCL_ROOT, else in the wheel beside torch (nvidia/nccl), else in the system.
#
#   NCCL_ROOT       folder with include/nccl.h and lib/libnccl.so or libnccl.so.2
#   NCCL::nccl      the library and its header, which includes CUDA's: link LibTorch::cuda with it
#   NCCL_VERSION    for example 2.30.7

set(_nccl_hints ${NCCL_ROOT} $ENV{NCCL_ROOT})
if(NOT _nccl_hints AND LibTorch_ROOT_DIR)
  list(APPEND _nccl_hints ${LibTorch_ROOT_DIR}/../nvidia/nccl)
endif()
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${_nccl_hints} PATH_SUFFIXES include)
# A wheel has no libnccl.so without a version.
find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${_nccl_hints} PATH_SUFFIXES lib lib64)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
if(NCCL_INCLUDE_DIR)
  file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h _nccl_lines REGEX "#define NCCL_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _nccl_lines "${_nccl_lines}")
  list(JOIN _nccl_lines "." NCCL_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION
  REASON_FAILURE_MESSAGE "Run tools/setup.sh --cuda-build, or pass -DNCCL_ROOT=<folder that holds include/nccl.h>.")

if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl SHARED IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES
    IMPORTED_LOCATION ${NCCL_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
endif()
