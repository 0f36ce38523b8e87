#include "cli/failure.h"

#include <new>
#include <string>
#include <utility>

#include "cli/output.h"
#include "quire/base/error.h"
#include "quire/base/json.h"

namespace quire::cli {
namespace {

int tell(FailureForm form, ExitCode exit, const char* code, std::string message) {
  message = harmless(std::move(message));  // one line, whatever a file or its name holds
  if (form == FailureForm::kLine) {
    note("quire: " + message);
    return exit;
  }
  Json error;
  error["code"] = code;
  error["message"] = message;
  Json object;
  object["error"] = error;
  note(object.dump());
  return exit;
}

}  // namespace

int report_failure(FailureForm form) {
  try {
    throw;
  } catch (const OutputClosed&) {
    return kOk;
  } catch (const ArgumentError& error) {
    return tell(form, kUsage, error.code(), error.what());
  } catch (const FormatError& error) {
    return tell(form, kInvalid, error.code(), error.what());
  } catch (const DeviceError& error) {  // OutOfMemory too
    return tell(form, kDevice, error.code(), error.what());
  } catch (const IoError& error) {
    return tell(form, kIo, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return tell(form, kDevice, "out_of_memory", "not enough memory");
  } catch (const std::exception& error) {
    return tell(form, kInternal, "internal", error.what());
  } catch (...) {
    return tell(form, kInternal, "internal", "unknown failure");
  }
}

}  // namespace quire::cli
