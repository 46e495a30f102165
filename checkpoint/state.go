package checkpoint

import "fmt"

// Field is one of the f32 values that are kept for every element.
type Field int

// The fields, in the order of the hash.
const (
	Master Field = iota
	M
	V
	// Fields is how many there are.
	Fields
)

func (f Field) String() string {
	if f < 0 || f >= Fields {
		return fmt.Sprintf("field(%d)", int(f))
	}
	return [Fields]string{"master", "m", "v"}[f]
}

// Range is a rank's part of one unit: canonical elements from Lo on, each field [n] f32.
type Range struct {
	Unit   string
	Lo     int
	Fields [Fields][]float32
}
