// Modules: what a driver reads of PTX is read here too, though the kernels that run are those compiled into this library.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "state.h"

namespace driver {
namespace {

std::set<Module*> modules;

// The PTX version that a driver of some CUDA version understands, times 10.
int ptx_of(int version) {
    const int major = version / 1000, minor = version % 1000 / 10;
    return major >= 13 ? 90 + minor : major == 12 ? 80 + minor : major == 11 ? 70 + minor : major == 10 ? 65 : 0;
}

// Text without comments.
std::string plain(const char* text) {
    std::string out;
    while (*text) {
        if (!strncmp(text, "//", 2)) {
            while (*text && *text != '\n') text++;
        } else if (!strncmp(text, "/*", 2)) {
            const char* end = strstr(text + 2, "*/");
            if (!end) return {};
            text = end + 2;
        } else {
            out += *text++;
        }
    }
    return out;
}

// The word after a directive; empty if there is none.
std::string after(const std::string& text, const char* directive) {
    size_t at = text.find(directive);
    if (at == std::string::npos) return {};
    at += strlen(directive);
    while (at < text.size() && isspace(static_cast<unsigned char>(text[at]))) at++;
    size_t end = at;
    while (end < text.size() && !isspace(static_cast<unsigned char>(text[end])) && text[end] != ',' && text[end] != '(') end++;
    return text.substr(at, end - at);
}

int parse(const std::string& text, Module& module) {
    const std::string version = after(text, ".version"), target = after(text, ".target");
    int major = 0, minor = 0, sm = 0;
    if (sscanf(version.c_str(), "%d.%d", &major, &minor) != 2 || sscanf(target.c_str(), "sm_%d", &sm) != 1) return INVALID_PTX;
    if (major * 10 + minor > ptx_of(driver_version())) return UNSUPPORTED_PTX_VERSION;
    if (sm > capability()) return NO_BINARY_FOR_GPU;
    if (after(text, ".address_size") != "64") return INVALID_PTX;
    long depth = 0;
    for (const char c : text) {
        depth += (c == '{') - (c == '}');
        if (depth < 0) return INVALID_PTX;
    }
    if (depth) return INVALID_PTX;
    static const char ENTRY[] = ".visible .entry";
    for (size_t at = text.find(ENTRY); at != std::string::npos; at = text.find(ENTRY, at + 1)) {
        const std::string name = after(text.substr(at, 512), ENTRY);
        const size_t open = text.find('(', at), close = text.find(')', open);
        if (name.empty() || open == std::string::npos || close == std::string::npos) return INVALID_PTX;
        const std::string params = text.substr(open, close - open);
        const size_t bracket = params.rfind('[');
        const size_t bytes = bracket == std::string::npos ? 0 : size_t(atoll(params.c_str() + bracket + 1));
        const simt::Kernel* kernel = simt::find_kernel(name.c_str());
        if (!kernel) {
            fprintf(stderr, "simulator: %s is in the PTX, but not in the sources\n", name.c_str());
            return INVALID_PTX;
        }
        if (kernel->param_bytes != bytes) {
            fprintf(stderr, "simulator: %s takes %zu bytes in the PTX, %zu in the sources\n", name.c_str(), bytes, kernel->param_bytes);
            return INVALID_PTX;
        }
        module.entries.push_back({name, kernel, bytes});
    }
    return SUCCESS;
}

}  // namespace

Module::Function* function_of(void* handle) {
    for (Module* m : modules)
        for (auto& f : m->functions)
            if (f.get() == handle) return f.get();
    return nullptr;
}

}  // namespace driver

using namespace driver;

API(cuModuleLoadData)(void** handle, const void* image) {
    ENTER("cuModuleLoadData");
    if (!simt::thread.context) return INVALID_CONTEXT;
    if (!image) return INVALID_VALUE;
    if (is_capturing()) return CAPTURE_UNSUPPORTED;
    auto module = std::make_unique<Module>();
    if (const int code = parse(plain(static_cast<const char*>(image)), *module)) return code;
    *handle = module.get();
    modules.insert(module.release());
    return SUCCESS;
}

API(cuModuleUnload)(void* handle) {
    ENTER("cuModuleUnload");
    auto* module = static_cast<Module*>(handle);
    if (!modules.count(module)) return INVALID_HANDLE;
    if (const int code = synchronize_all()) return code;
    modules.erase(module);
    delete module;
    return SUCCESS;
}

API(cuModuleGetFunction)(void** function, void* handle, const char* name) {
    ENTER("cuModuleGetFunction");
    auto* module = static_cast<Module*>(handle);
    if (!modules.count(module)) return INVALID_HANDLE;
    for (const Module::Entry& e : module->entries) {
        if (e.name != name) continue;
        module->functions.push_back(std::make_unique<Module::Function>());
        module->functions.back()->kernel = e.kernel;
        *function = module->functions.back().get();
        return SUCCESS;
    }
    return NOT_FOUND;
}

API(cuFuncSetAttribute)(void* handle, int attribute, int value) {
    ENTER("cuFuncSetAttribute");
    Module::Function* f = function_of(handle);
    if (!f) return INVALID_HANDLE;
    if (attribute == 9) return value >= 0 && value <= 100 ? SUCCESS : INVALID_VALUE;  // share of shared memory in the cache: a wish
    if (attribute != 8 || value < 0 || size_t(value) > simt::SHARED_OPT_IN) return INVALID_VALUE;
    f->max_dynamic_shared = size_t(value);
    return SUCCESS;
}
