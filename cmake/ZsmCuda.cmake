# Enables CUDA if nvcc is found. Sets ZSM_HAVE_CUDA.
#
# A shorter list builds faster: -DCMAKE_CUDA_ARCHITECTURES=90 (or `native`).

# Machine code for each generation that this nvcc knows, and PTX for all other GPUs. PTX for sm_75 wouldn't do: its
# kernels run with fewer warps than those of later GPUs.
function(zsm_cuda_architectures nvcc_version result)
  set(architectures 75-real 80-real 86-real 89-real 90-real)
  if(nvcc_version VERSION_GREATER_EQUAL 12.8)
    list(APPEND architectures 100-real 120-real)
  endif()
  set(${result} ${architectures} 80-virtual PARENT_SCOPE)
endfunction()

set(ZSM_HAVE_CUDA OFF)
if(ZSM_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(chosen "${CMAKE_CUDA_ARCHITECTURES}$ENV{CUDAARCHS}")
    enable_language(CUDA)
    if(chosen STREQUAL "")  # replaces enable_language's default
      zsm_cuda_architectures(${CMAKE_CUDA_COMPILER_VERSION} architectures)
      set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "GPU architectures to compile for" FORCE)
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(ZSM_HAVE_CUDA ON)
  else()
    message(STATUS "Skipped: CUDA kernels and TensorRT adapter. No nvcc; install the CUDA toolkit or set CUDACXX to its nvcc.")
  endif()
else()
  message(STATUS "Skipped: CUDA kernels and TensorRT adapter. ZSM_CUDA is off.")
endif()
