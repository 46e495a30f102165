package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The metadata types, numbered as in the file.
const (
	typeU8 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeString
	typeArray
	typeU64
	typeI64
	typeF64
)

// fixedBytes is the width of a metadata type, 0 for those without one.
var fixedBytes = [...]int{typeU8: 1, typeI8: 1, typeU16: 2, typeI16: 2, typeU32: 4, typeI32: 4, typeF32: 4, typeBool: 1, typeU64: 8, typeI64: 8, typeF64: 8}

const maxKeyBytes = 1<<16 - 1 // the format's own limit

// decoder reads the head of a file front to back. After the first fault it returns zeros,
// and err tells what and where.
type decoder struct {
	data []byte
	at   int
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("byte %d: "+format, append([]any{d.at}, args...)...)
	}
}

// left is how many bytes follow.
func (d *decoder) left() uint64 { return uint64(len(d.data) - d.at) }

// take returns the next n bytes of the mapping; the caller copies what it keeps. It
// returns nil after a fault.
func (d *decoder) take(n uint64) []byte {
	if d.err == nil && n > d.left() {
		d.fail("%d bytes wanted, %d left: the file is truncated", n, d.left())
	}
	if d.err != nil {
		return nil
	}
	b := d.data[d.at : d.at+int(n)]
	d.at += int(n)
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads a number of things of at least minBytes each: more than fit is a fault.
func (d *decoder) count(what string, minBytes uint64) int {
	n := d.u64()
	if d.err == nil && n > d.left()/minBytes {
		d.fail("%d %s in %d bytes: the file is truncated", n, what, d.left())
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) text() string { return string(d.take(d.u64())) }

// name reads a key or a tensor's name.
func (d *decoder) name(what string) string {
	n := d.u64()
	if d.err == nil && (n == 0 || n > maxKeyBytes) {
		d.fail("%s of %d bytes: want 1 to %d", what, n, maxKeyBytes)
	}
	return string(d.take(n))
}

// value reads one metadata value: a Go number, bool, string, or a slice of one of these.
func (d *decoder) value(kind uint32) any {
	switch {
	case kind == typeString:
		return d.text()
	case kind == typeArray:
		return d.array()
	case kind < uint32(len(fixedBytes)) && fixedBytes[kind] > 0:
		if b := d.take(uint64(fixedBytes[kind])); b != nil {
			return d.fixed(kind, b)
		}
	default:
		d.fail("metadata type %d: want 0 to %d", kind, typeF64)
	}
	return nil
}

func (d *decoder) fixed(kind uint32, b []byte) any {
	switch kind {
	case typeU8:
		return b[0]
	case typeI8:
		return int8(b[0])
	case typeU16:
		return binary.LittleEndian.Uint16(b)
	case typeI16:
		return int16(binary.LittleEndian.Uint16(b))
	case typeU32:
		return binary.LittleEndian.Uint32(b)
	case typeI32:
		return int32(binary.LittleEndian.Uint32(b))
	case typeF32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case typeU64:
		return binary.LittleEndian.Uint64(b)
	case typeI64:
		return int64(binary.LittleEndian.Uint64(b))
	case typeF64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	if b[0] > 1 {
		d.fail("bool %d: want 0 or 1", b[0])
	}
	return b[0] == 1
}

// array reads an array of numbers, bools or strings. Arrays of arrays have no use in any
// known file and are refused.
func (d *decoder) array() any {
	kind := d.u32()
	if d.err != nil {
		return nil
	}
	switch kind {
	case typeString:
		out := make([]string, d.count("strings", 8))
		for i := range out {
			out[i] = d.text()
		}
		return out
	case typeU8:
		return list[uint8](d, kind)
	case typeI8:
		return list[int8](d, kind)
	case typeU16:
		return list[uint16](d, kind)
	case typeI16:
		return list[int16](d, kind)
	case typeU32:
		return list[uint32](d, kind)
	case typeI32:
		return list[int32](d, kind)
	case typeF32:
		return list[float32](d, kind)
	case typeBool:
		return list[bool](d, kind)
	case typeU64:
		return list[uint64](d, kind)
	case typeI64:
		return list[int64](d, kind)
	case typeF64:
		return list[float64](d, kind)
	}
	d.fail("array of metadata type %d: want numbers, bools or strings", kind)
	return nil
}

func list[T any](d *decoder, kind uint32) []T {
	width := fixedBytes[kind]
	out := make([]T, d.count("values", uint64(width)))
	b := d.take(uint64(len(out) * width))
	for i := range out {
		out[i] = d.fixed(kind, b[i*width:(i+1)*width]).(T)
	}
	return out
}
