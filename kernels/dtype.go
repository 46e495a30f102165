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
	// Int8 is a block format of the wire: BlockElems elements are as many signed bytes q and, after them, one f32 scale; an
	// element is float32(q) * scale. A buffer of it has whole blocks. Rounding to it: scale is the block's largest magnitude
	// over 127, q the nearest to x * (127 / magnitude), ties to even. A block with an Inf or a NaN is all NaN; one whose
	// magnitudes are all below 2^-100 is all zero.
	//
	// Source: blockwise quantization of ZeRO++ (qwZ, qgZ), Wang et al. 2023, arXiv:2306.10209, section 3.
	Int8
)

// BlockElems is how many elements share what a block format stores once.
const BlockElems = 256

// Block is how many elements the format stores together: 1, or BlockElems. Lengths and offsets are multiples of it.
func (t DType) Block() int {
	if t == Int8 {
		return BlockElems
	}
	return 1
}

// Bytes is the width of one Block: of one element, for all but block formats; 0 for no format.
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
	case Int8:
		return BlockElems + 4
	}
	return 0
}

// Size is the bytes of n elements, n a multiple of Block.
func (t DType) Size(n int) int { return n / t.Block() * t.Bytes() }

// Len is how many elements so many bytes hold; 0 for no format.
func (t DType) Len(bytes int) int {
	if t.Bytes() == 0 {
		return 0
	}
	return bytes / t.Bytes() * t.Block()
}

// Align is what an element's address must be a multiple of.
func (t DType) Align() int {
	if t == Int8 {
		return 4
	}
	return t.Bytes()
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
	case Int8:
		return "int8"
	}
	return fmt.Sprintf("dtype(%d)", uint8(t))
}
