package safetensors

// DType is a tensor's element format, under the name that the header gives it.
type DType string

// The element formats of whole bytes. ReadF32 and WriteF32 know F32, F16 and BF16; the
// others are carried as bytes.
const (
	F64    DType = "F64"
	I64    DType = "I64"
	U64    DType = "U64"
	C64    DType = "C64"
	F32    DType = "F32"
	I32    DType = "I32"
	U32    DType = "U32"
	F16    DType = "F16"
	BF16   DType = "BF16"
	I16    DType = "I16"
	U16    DType = "U16"
	F8E4M3 DType = "F8_E4M3"
	F8E5M2 DType = "F8_E5M2"
	F8E8M0 DType = "F8_E8M0"
	I8     DType = "I8"
	U8     DType = "U8"
	Bool   DType = "BOOL"
)

// Bytes is the width of one element, 0 for a format that this package does not know.
func (t DType) Bytes() int {
	switch t {
	case F64, I64, U64, C64:
		return 8
	case F32, I32, U32:
		return 4
	case F16, BF16, I16, U16:
		return 2
	case F8E4M3, F8E5M2, F8E8M0, I8, U8, Bool:
		return 1
	}
	return 0
}
