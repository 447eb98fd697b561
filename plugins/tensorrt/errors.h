// Reports errors to TensorRT's recorder, or its log, or standard error, whichever exists first.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace zsm::tensorrt {

constexpr char kName[] = "DeformConv2d", kVersion[] = "1", kNamespace[] = "zsm";

void use_logger_of(nvinfer1::ILoggerFinder* finder) noexcept;

void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, const std::string& message) noexcept;

}  // namespace zsm::tensorrt
