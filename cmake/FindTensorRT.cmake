# Finds the headers of one or several TensorRT majors.
#
# The plugin needs only headers: TensorRT calls it, it calls no library function.
#
# Input:
#   TensorRT_INCLUDE_DIR   folder with NvInfer.h, or a list of folders, one per TensorRT major
#   TensorRT_ROOT          TensorRT's folder (variable or environment), searched first
#
# Output:
#   TensorRT_FOUND, TensorRT_INCLUDE_DIRS
#   TensorRT_VERSIONS      the folders' versions, in the same order

find_path(TensorRT_INCLUDE_DIR NvInfer.h PATH_SUFFIXES include)
mark_as_advanced(TensorRT_INCLUDE_DIR)

set(TensorRT_INCLUDE_DIRS "")
set(TensorRT_VERSIONS "")
foreach(dir IN LISTS TensorRT_INCLUDE_DIR)
  if(NOT EXISTS "${dir}/NvInferVersion.h")
    continue()
  endif()
  file(STRINGS "${dir}/NvInferVersion.h" lines REGEX "^#define (TRT|NV_TENSORRT)_(MAJOR|MINOR)(_ENTERPRISE)? +[0-9]+")
  string(REGEX REPLACE ".*MAJOR[A-Z_]* +([0-9]+).*" "\\1" major "${lines}")
  string(REGEX REPLACE ".*MINOR[A-Z_]* +([0-9]+).*" "\\1" minor "${lines}")
  list(APPEND TensorRT_INCLUDE_DIRS "${dir}")
  list(APPEND TensorRT_VERSIONS "${major}.${minor}")
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT REQUIRED_VARS TensorRT_INCLUDE_DIRS)
