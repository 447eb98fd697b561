// Reports errors to TensorRT's recorder if there is one, else to its log, else to standard error.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace zsm::tensorrt {

constexpr char kName[] = "DeformConv2d", kVersion[] = "1", kNamespace[] = "zsm";

void use_logger_of(nvinfer1::ILoggerFinder* finder) noexcept;

void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, const std::string& message) noexcept;

}  // namespace zsm::tensorrt
