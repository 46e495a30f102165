package kernels

import _ "embed"

// ABI is the text of the C interface that every Backend in C implements. It is kept in this package
// so that the Go tool, which looks for headers in a package's own folder only, compiles those
// Backends again when the interface changes.
//
//go:embed zf_kernels.h
var ABI string
