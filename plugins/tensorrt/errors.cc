#include "tensorrt/errors.h"

#include <atomic>
#include <cstdio>

namespace zsm::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void use_logger_of(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, const std::string& message) noexcept try {
  const std::string text = "zsm::DeformConv2d: " + message;
  if (recorder) {
    recorder->reportError(code, text.c_str());
    return;
  }
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr;
  if (logger) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
  } else {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
} catch (...) {  // failing to report an error must not crash
}

}  // namespace zsm::tensorrt
