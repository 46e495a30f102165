package kernels

import "fmt"

// DType is the numeric format of a buffer's elements.
type DType uint8

// The formats that kernels read and write. The zero value is no format.
const (
	F32 DType = iota + 1
	BF16
	F16
	F64
	I32
	U8
)

// Bytes is the width of one element.
func (t DType) Bytes() int {
	switch t {
	case F32, I32:
		return 4
	case BF16, F16:
		return 2
	case F64:
		return 8
	case U8:
		return 1
	}
	return 0
}

func (t DType) String() string {
	switch t {
	case F32:
		return "f32"
	case BF16:
		return "bf16"
	case F16:
		return "f16"
	case F64:
		return "f64"
	case I32:
		return "i32"
	case U8:
		return "u8"
	}
	return fmt.Sprintf("dtype(%d)", uint8(t))
}
