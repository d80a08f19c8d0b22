# What every target of ours has in common: the language, the warnings, the sanitizers.

find_program(TRAINER_CCACHE ccache)
mark_as_advanced(TRAINER_CCACHE)
if(PROJECT_IS_TOP_LEVEL AND TRAINER_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # ccache reads a precompiled header only when told that its time stamp and macros do not matter. Paths are hashed
  # relative to this tree, so that another clone finds what this one compiled.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 CCACHE_PCH_EXTSUM=1 ${TRAINER_CCACHE})
endif()

# CMake also names the header itself, by a path that ccache takes for part of the command; the precompiled one holds it.
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  set(CMAKE_CXX_COMPILE_OPTIONS_USE_PCH -Xclang -include-pch -Xclang <PCH_FILE>)
endif()

# trainer_precompile_headers(TARGET HEADERS...): headers of libraries. Clang writes the paths and times of the headers
# into what it precompiles, so that no other clone could use what ccache keeps of this one; ccache looks at this sum instead.
function(trainer_precompile_headers target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/CMakeFiles/${target}.dir/cmake_pch.hxx.pch.sum CONTENT
"${ARGN}
${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}} ${TRAINER_SANITIZE}
LibTorch ${LibTorch_VERSION} nlohmann_json ${nlohmann_json_VERSION} fmt ${fmt_VERSION}
")
  endif()
endfunction()

function(trainer_target_defaults target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  # -fPIC for programs too, so that they can share the precompiled header of libraries.
  target_compile_options(${target} PRIVATE -fPIC -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
                         # GCC 12 sees overflows in std::string that are not there (GCC bug 105329 and its kin).
                         $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess -Wno-restrict -Wno-stringop-overflow>)
  if(TRAINER_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(TRAINER_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${TRAINER_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${TRAINER_SANITIZE})
  endif()
endfunction()

# trainer_plugin(NAME SOURCES...): a plug-in that YAML names as `plugins: [NAME]`.
function(trainer_plugin name)
  add_library(${name} MODULE ${ARGN})
  trainer_target_defaults(${name})
  target_link_libraries(${name} PRIVATE trainer::trainer)
  set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/trainer/plugins)
  target_precompile_headers(${name} REUSE_FROM trainer_user_pch)
endfunction()
