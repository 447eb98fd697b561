#include "tensorrt/errors.h"

#include <atomic>

namespace zsm::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void use_logger_of(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, const std::string& message) noexcept try {
  const std::string text = "zsm::DeformConv2d: " + message;
  if (recorder) {
    recorder->reportError(code, text.c_str());
  } else if (nvinfer1::ILoggerFinder* finder = logger_finder) {
    if (nvinfer1::ILogger* logger = finder->findLogger()) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
    }
  }
} catch (...) {  // an error that cannot be reported must not become a crash
}

}  // namespace zsm::tensorrt
