// Package safetensors reads and writes the safetensors format: named tensors in one file
// (Open, Create) or spread over several with an index (OpenSharded).
//
//	offset  bytes  what
//	0       8      N, the header's length, little-endian
//	8       N      the header: a JSON object padded with spaces to a multiple of 8 bytes
//	8+N     rest   the tensors' elements, little-endian, row-major, end to end
//
// The header maps each tensor's name to {"dtype", "shape", "data_offsets": [begin, end)},
// offsets counted from the end of the header, and "__metadata__" to a map of strings.
// The format carries no version and no checksum; what can be checked is: the header's
// length against the file's, every range against its dtype and shape, and that the ranges
// fill the file without holes or overlaps. Files are mapped, not read, so opening one costs
// its header, and reading a range costs that range.
//
// Source: github.com/huggingface/safetensors, README, "Format".
package safetensors

import "errors"

// ErrMalformed is wrapped by the error for a file that breaks the format. The caller tells
// the user that the file is damaged or of another kind; trying again does not help.
var ErrMalformed = errors.New("malformed safetensors file")
