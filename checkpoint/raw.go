package checkpoint

import "unsafe"

// rawBytes sees f32 values as a part holds them. Every machine that this runs on is little-endian, as the format is.
func rawBytes(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
