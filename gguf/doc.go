// Package gguf reads GGUF files, versions 2 and 3, little-endian: a model's metadata, which
// includes its vocabulary, and its tensors, widened or dequantised to f32.
//
//	magic "GGUF" | u32 version | u64 tensors | u64 pairs
//	pairs:   string key | u32 type | value
//	tensors: string name | u32 dims | u64 dim, innermost first | u32 type | u64 offset
//	padding to general.alignment (default 32), then the data; offsets count from there
//
// A string is a u64 length and that many bytes; an array is a u32 type, a u64 count and the
// values. Every count is held against the bytes that are left before anything is allocated
// for it. Files are mapped, not read: opening one costs its head, reading a range of a
// tensor costs that range.
//
// Source: github.com/ggml-org/ggml, docs/gguf.md; block formats: ggml/src/ggml-common.h and
// ggml-quants.c.
package gguf

import "errors"

var (
	// ErrMalformed is wrapped by the error for a file that breaks the format. The caller
	// tells the user that it is damaged or of another kind.
	ErrMalformed = errors.New("malformed GGUF file")

	// ErrNoKey is wrapped by the error for metadata that is not there. A caller that has a
	// default takes it.
	ErrNoKey = errors.New("no such key")
)
