# Finds ONNX Runtime's C headers.
#
# A custom operator library needs only headers: ONNX Runtime passes it a function table on loading.
# The pip package has none; the release archives on ONNX Runtime's GitHub page and its NuGet package do.
#
# Input:
#   onnxruntime_INCLUDE_DIR   folder with onnxruntime_c_api.h, of version 1.18 or later
#   onnxruntime_ROOT          an unpacked release archive (variable or environment), searched first
#   ZSM_DOWNLOAD              whether a release archive (8 MB) is downloaded if nothing else is found
#
# Output:
#   onnxruntime_FOUND
#   onnxruntime::headers

find_path(onnxruntime_INCLUDE_DIR onnxruntime_c_api.h
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
mark_as_advanced(onnxruntime_INCLUDE_DIR)

if(EXISTS "${onnxruntime_INCLUDE_DIR}/onnxruntime_c_api.h")
  file(STRINGS "${onnxruntime_INCLUDE_DIR}/onnxruntime_c_api.h" line REGEX "^#define ORT_API_VERSION +[0-9]+")
  string(REGEX MATCH "[0-9]+" version "${line}")
  if(version LESS 18)
    message(STATUS "Ignored: the headers of ONNX Runtime 1.${version} in ${onnxruntime_INCLUDE_DIR}. 1.18 or later is needed.")
    set(onnxruntime_INCLUDE_DIR "")
  endif()
endif()

if(NOT onnxruntime_INCLUDE_DIR AND ZSM_DOWNLOAD)
  # The adapter uses the API of version 1.18, whatever the headers' version.
  set(version 1.24.4)
  set(release "onnxruntime-linux-x64-${version}")
  set(hash 3a211fbea252c1e66290658f1b735b772056149f28321e71c308942cdb54b747)
  set(include_dir "${CMAKE_BINARY_DIR}/${release}/include")
  if(NOT EXISTS "${include_dir}/onnxruntime_c_api.h")
    message(STATUS "Downloading ONNX Runtime's headers")
    set(archive "${CMAKE_BINARY_DIR}/${release}.tgz")
    file(DOWNLOAD "https://github.com/microsoft/onnxruntime/releases/download/v${version}/${release}.tgz" "${archive}"
      TIMEOUT 120 STATUS status)
    list(POP_FRONT status code reason)
    if(code EQUAL 0)
      file(SHA256 "${archive}" found)
      if(found STREQUAL hash)
        file(ARCHIVE_EXTRACT INPUT "${archive}" DESTINATION "${CMAKE_BINARY_DIR}/part" PATTERNS "*/include/*")
        file(REMOVE_RECURSE "${CMAKE_BINARY_DIR}/${release}")
        file(RENAME "${CMAKE_BINARY_DIR}/part/${release}" "${CMAKE_BINARY_DIR}/${release}")
      else()
        message(STATUS "The download isn't used: its SHA-256 is ${found} instead of ${hash}.")
      endif()
    else()
      message(STATUS "The download failed: ${reason}.")
    endif()
    file(REMOVE_RECURSE "${archive}" "${CMAKE_BINARY_DIR}/part")
  endif()
  if(EXISTS "${include_dir}/onnxruntime_c_api.h")
    set(onnxruntime_INCLUDE_DIR "${include_dir}")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(onnxruntime REQUIRED_VARS onnxruntime_INCLUDE_DIR)

if(onnxruntime_FOUND AND NOT TARGET onnxruntime::headers)
  add_library(onnxruntime::headers INTERFACE IMPORTED)
  target_include_directories(onnxruntime::headers SYSTEM INTERFACE "${onnxruntime_INCLUDE_DIR}")
endif()
