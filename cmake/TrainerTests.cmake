# Tests train on the processor, also where accelerator=auto would find a GPU, unless they have the label gpu.
set(trainer_hide_gpus ";CUDA_VISIBLE_DEVICES=")

# trainer_test(folder/name_test.cpp [LABELS ...] [TIMEOUT s] [LIBRARIES ...]): one GoogleTest program and one ctest entry, both called
# after the file.
function(trainer_test source)
  cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS;LIBRARIES" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  trainer_target_defaults(${name})
  target_link_libraries(${name} PRIVATE trainer_fmt trainer::trainer trainer_test_support GTest::gtest GTest::gtest_main ${ARG_LIBRARIES})
  # GCC 12 sees overflows in long joined texts that are not there.
  target_compile_options(${name} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds>)
  target_precompile_headers(${name} REUSE_FROM trainer_user_pch)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  # One thread each: ctest runs several side by side, and OpenMP threads that wait for each other spin.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
                       ENVIRONMENT "OMP_NUM_THREADS=1${trainer_hide_gpus}")
endfunction()

# trainer_mpi_test(folder/name_test.cpp RANKS 1 2 4 [MESSAGES 2 4] [LABELS ...] [TIMEOUT s] [LIBRARIES ...]): one GoogleTest
# program whose main() joins the ranks (tests/support/mpi_main.cpp), and for each number of ranks a ctest entry name.npN
# under mpirun, for those of MESSAGES another, name.messages.npN, in which the ranks share no memory, as on several nodes.
function(trainer_mpi_test source)
  cmake_parse_arguments(ARG "" "TIMEOUT" "RANKS;MESSAGES;LABELS;LIBRARIES" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source} support/mpi_main.cpp)
  trainer_target_defaults(${name})
  target_link_libraries(${name} PRIVATE trainer_fmt trainer::trainer trainer_test_support GTest::gtest ${ARG_LIBRARIES})
  target_precompile_headers(${name} REUSE_FROM trainer_user_pch)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(hide_gpus "${trainer_hide_gpus}")
  if(gpu IN_LIST ARG_LABELS)
    set(hide_gpus "")
  endif()
  list(TRANSFORM ARG_MESSAGES PREPEND "messages.np")
  list(TRANSFORM ARG_RANKS PREPEND "np")
  foreach(entry ${ARG_RANKS} ${ARG_MESSAGES})
    string(REGEX REPLACE ".*np" "" ranks ${entry})
    set(node_memory "")
    if(entry MATCHES "messages")
      set(node_memory ";TRAINER_NODE_MEMORY=0")
    endif()
    # More ranks than cores must give them up while they wait.
    add_test(NAME ${name}.${entry} WORKING_DIRECTORY ${PROJECT_BINARY_DIR}/tests
             COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --bind-to none
                     --mca mpi_yield_when_idle 1 -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.${entry} PROPERTIES LABELS "mpi;${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS 2
                         ENVIRONMENT "OMP_NUM_THREADS=1;TRAINER_TEST_WORLD_SIZE=${ranks}${hide_gpus}${node_memory}"
                         # What a test of the GPU prints where there is none: ctest lists it as skipped then.
                         SKIP_REGULAR_EXPRESSION "GPU tests skipped: ")
  endforeach()
endfunction()
