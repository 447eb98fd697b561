# Enables CUDA if nvcc is found. Sets ZSM_HAVE_CUDA.
#
# A shorter list builds faster: -DCMAKE_CUDA_ARCHITECTURES=90 (or `native`).
set(ZSM_HAVE_CUDA OFF)
if(ZSM_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Machine code for each generation, and PTX for later ones.
    set(architectures 75-real 80-real 86-real 89-real 90-real 100-real 120-real 120-virtual)
    set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "GPU architectures to compile for")
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(ZSM_HAVE_CUDA ON)
  else()
    message(STATUS "Skipped: CUDA kernels and TensorRT adapter. No nvcc; install the CUDA toolkit or set CUDACXX to its nvcc.")
  endif()
else()
  message(STATUS "Skipped: CUDA kernels and TensorRT adapter. ZSM_CUDA is off.")
endif()
