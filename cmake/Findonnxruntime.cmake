# Finds ONNX Runtime's C headers.
#
# A custom operator library needs only headers: ONNX Runtime passes it a function table on loading.
# The pip package has none; the release archives on ONNX Runtime's GitHub page and its NuGet package do.
#
# Input:
#   onnxruntime_INCLUDE_DIR   folder with onnxruntime_c_api.h
#   onnxruntime_ROOT          an unpacked release archive (variable or environment), searched first
#
# Output:
#   onnxruntime_FOUND
#   onnxruntime::headers

find_path(onnxruntime_INCLUDE_DIR onnxruntime_c_api.h
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
mark_as_advanced(onnxruntime_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(onnxruntime REQUIRED_VARS onnxruntime_INCLUDE_DIR)

if(onnxruntime_FOUND AND NOT TARGET onnxruntime::headers)
  add_library(onnxruntime::headers INTERFACE IMPORTED)
  target_include_directories(onnxruntime::headers SYSTEM INTERFACE "${onnxruntime_INCLUDE_DIR}")
endif()
