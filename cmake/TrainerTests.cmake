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
                       ENVIRONMENT OMP_NUM_THREADS=1)
endfunction()
