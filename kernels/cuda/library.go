package cuda

// This file opens the library; bind.go calls it. No other one speaks to C.

// #cgo CFLAGS: -O2 -std=c11 -Wall -Wextra
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "zf_library.h"
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

// kernels.ABI is named so that the Go tool, which looks for headers in a package's own folder only, compiles this package
// again when zf_kernels.h changes.
var _ = kernels.ABI

// LibraryName is the library's file name, and LibraryVariable the environment variable that names another file.
const (
	LibraryName     = "libzerofleet_cuda.so"
	LibraryVariable = "ZEROFLEET_CUDA_LIBRARY"
)

// LibraryPath is where the library is looked for: what LibraryVariable says, else beside this program.
func LibraryPath() (string, error) {
	if path := os.Getenv(LibraryVariable); path != "" {
		return path, nil
	}
	own, err := os.Executable()
	if err == nil {
		own, err = filepath.EvalSymlinks(own)
	}
	if err != nil {
		return "", fmt.Errorf("find %s: %w", LibraryName, err)
	}
	return filepath.Join(filepath.Dir(own), LibraryName), nil
}

// opened is the process's library. It stays until the process ends.
var opened struct {
	sync.Mutex
	path string
}

// openLibrary opens the library at path, unless it is open.
func openLibrary(path string) error {
	opened.Lock()
	defer opened.Unlock()
	if opened.path != "" {
		if opened.path != path {
			return fmt.Errorf("library %s: this process has opened %s", path, opened.path)
		}
		return nil
	}
	c := C.CString(path)
	defer C.free(unsafe.Pointer(c))
	if why := C.zf_library_open(c); why != nil {
		return fmt.Errorf("library %s: %s", path, C.GoString(why))
	}
	opened.path = path
	return nil
}
