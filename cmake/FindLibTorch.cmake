# Finds LibTorch in a torch wheel or a LibTorch archive, without a CUDA toolkit.
#
# The wheel's own TorchConfig.cmake asks for a complete CUDA toolkit as soon as the wheel was built with CUDA, even
# for a program that uses the CPU only, so the libraries are made into imported targets here.
#
#   LIBTORCH_ROOT        folder with lib/libtorch_cpu.so and include/torch (default: the clone's own .deps, then the
#                        torch package of the active Python)
#   LibTorch::cpu        torch_cpu and c10
#   LibTorch::cuda       torch_cuda, c10_cuda and the CUDA runtime with its headers, where LibTorch_HAS_CUDA
#   LibTorch_VERSION     for example 2.15.0
#   LibTorch_HAS_CUDA    whether all of that is there; LibTorch_NO_CUDA_REASON names what is not
#
# The CUDA runtime is that of the wheels beside torch (nvidia/cu13), else of a toolkit: CUDAToolkit_ROOT, CUDA_HOME or
# /usr/local/cuda.

set(_libtorch_hints ${LIBTORCH_ROOT} $ENV{LIBTORCH_ROOT})
if(NOT _libtorch_hints)
  list(APPEND _libtorch_hints ${PROJECT_SOURCE_DIR}/.deps/libtorch/torch ${LibTorch_FALLBACK_ROOT})
  find_program(LibTorch_PYTHON NAMES python3 python)
  mark_as_advanced(LibTorch_PYTHON)
  if(LibTorch_PYTHON)
    execute_process(
      COMMAND ${LibTorch_PYTHON} -c
              "import importlib.util as u, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
      OUTPUT_VARIABLE _libtorch_python_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND _libtorch_hints ${_libtorch_python_root})
  endif()
endif()

find_library(LibTorch_torch_cpu_LIBRARY torch_cpu PATHS ${_libtorch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)
mark_as_advanced(LibTorch_torch_cpu_LIBRARY)
if(LibTorch_torch_cpu_LIBRARY)
  get_filename_component(_libtorch_lib ${LibTorch_torch_cpu_LIBRARY} DIRECTORY)
  get_filename_component(LibTorch_ROOT_DIR ${_libtorch_lib} DIRECTORY)
  find_library(LibTorch_c10_LIBRARY c10 PATHS ${_libtorch_lib} NO_DEFAULT_PATH)
  find_path(LibTorch_INCLUDE_DIR torch/version.h PATHS ${LibTorch_ROOT_DIR}/include
            PATH_SUFFIXES . torch/csrc/api/include NO_DEFAULT_PATH)
  find_path(LibTorch_API_INCLUDE_DIR torch/torch.h PATHS ${LibTorch_ROOT_DIR}/include/torch/csrc/api/include NO_DEFAULT_PATH)
  mark_as_advanced(LibTorch_c10_LIBRARY LibTorch_INCLUDE_DIR LibTorch_API_INCLUDE_DIR)
  file(GLOB_RECURSE _libtorch_version_headers ${LibTorch_ROOT_DIR}/include/torch/headeronly/version.h
       ${LibTorch_ROOT_DIR}/include/torch/csrc/api/include/torch/version.h)
  foreach(_header IN LISTS _libtorch_version_headers)
    file(STRINGS ${_header} _line REGEX "#define TORCH_VERSION \"|#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]")
    foreach(_part MAJOR MINOR PATCH)
      if("${_line}" MATCHES "TORCH_VERSION_${_part} ([0-9]+)")
        set(_libtorch_${_part} ${CMAKE_MATCH_1})
      endif()
    endforeach()
  endforeach()
  set(LibTorch_VERSION "${_libtorch_MAJOR}.${_libtorch_MINOR}.${_libtorch_PATCH}")

  find_library(LibTorch_torch_cuda_LIBRARY torch_cuda PATHS ${_libtorch_lib} NO_DEFAULT_PATH)
  find_library(LibTorch_c10_cuda_LIBRARY c10_cuda PATHS ${_libtorch_lib} NO_DEFAULT_PATH)
  file(GLOB _cuda_hints LIST_DIRECTORIES TRUE ${LibTorch_ROOT_DIR}/../nvidia/cu[0-9]*)
  list(APPEND _cuda_hints ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_HOME} /usr/local/cuda)
  find_path(LibTorch_CUDA_INCLUDE_DIR cuda_runtime_api.h PATHS ${_cuda_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(LibTorch_CUDA_CRT_INCLUDE_DIR crt/host_defines.h PATHS ${_cuda_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(LibTorch_CUDA_CCCL_INCLUDE_DIR nv/target PATHS ${_cuda_hints} PATH_SUFFIXES include include/cccl
            NO_DEFAULT_PATH)
  # A wheel has no libcudart.so without a version.
  find_library(LibTorch_cudart_LIBRARY NAMES libcudart.so.13 libcudart.so.12 cudart PATHS ${_cuda_hints}
               PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
  set(_cuda_parts LibTorch_torch_cuda_LIBRARY LibTorch_c10_cuda_LIBRARY LibTorch_CUDA_INCLUDE_DIR
                  LibTorch_CUDA_CRT_INCLUDE_DIR LibTorch_CUDA_CCCL_INCLUDE_DIR LibTorch_cudart_LIBRARY)
  mark_as_advanced(${_cuda_parts})
  set(LibTorch_HAS_CUDA ON)
  foreach(_part IN LISTS _cuda_parts)
    if(LibTorch_HAS_CUDA AND NOT ${_part})
      set(LibTorch_HAS_CUDA OFF)
      set(LibTorch_NO_CUDA_REASON "${_part} was not found")
    endif()
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_INCLUDE_DIR LibTorch_API_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "Run tools/setup.sh, or pass -DLIBTORCH_ROOT=<folder that holds lib/libtorch_cpu.so>.")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_c10_LIBRARY})
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(LibTorch::cpu PROPERTIES
    IMPORTED_LOCATION ${LibTorch_torch_cpu_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_ROOT_DIR}/include;${LibTorch_API_INCLUDE_DIR}"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_LINK_LIBRARIES LibTorch::c10
    # A wheel's libraries find their CUDA neighbours through their own RPATH; the linker does not need them.
    INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")
endif()

if(LibTorch_FOUND AND LibTorch_HAS_CUDA AND NOT TARGET LibTorch::cuda)
  add_library(LibTorch::cudart SHARED IMPORTED)
  set_target_properties(LibTorch::cudart PROPERTIES
    IMPORTED_LOCATION ${LibTorch_cudart_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_CUDA_INCLUDE_DIR};${LibTorch_CUDA_CRT_INCLUDE_DIR};${LibTorch_CUDA_CCCL_INCLUDE_DIR}")
  add_library(LibTorch::c10_cuda SHARED IMPORTED)
  set_target_properties(LibTorch::c10_cuda PROPERTIES
    IMPORTED_LOCATION ${LibTorch_c10_cuda_LIBRARY} INTERFACE_LINK_LIBRARIES "LibTorch::c10;LibTorch::cudart")
  add_library(LibTorch::cuda SHARED IMPORTED)
  set_target_properties(LibTorch::cuda PROPERTIES
    IMPORTED_LOCATION ${LibTorch_torch_cuda_LIBRARY} INTERFACE_LINK_LIBRARIES "LibTorch::cpu;LibTorch::c10_cuda")
endif()
