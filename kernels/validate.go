package kernels

import (
	"fmt"
	"math"
)

// A check gathers the first fault of an Op's arguments.
type check struct {
	op  string
	err error
}

func (c *check) fail(format string, a ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(c.op+": "+format, a...)
	}
}

// dims checks that each dimension is at least 1 and that the elements of no buffer overflow.
func (c *check) dims(dims ...int) {
	p := 1
	for _, d := range dims {
		if d < 1 || d > math.MaxInt32 || p > math.MaxInt/d {
			c.fail("dimensions %v: want each in [1, 2^31)", dims)
			return
		}
		p *= d
	}
}

func (c *check) buf(name string, b Buffer, n int, types ...DType) {
	if b.Len() != n || b.IsZero() {
		c.fail("%s has %d elements, want %d", name, b.Len(), n)
		return
	}
	for _, t := range types {
		if b.Type() == t {
			return
		}
	}
	c.fail("%s is %s, want one of %v", name, b.Type(), types)
}

func (c *check) same(what string, bufs ...Buffer) {
	for _, b := range bufs[1:] {
		if !b.IsZero() && b.Type() != bufs[0].Type() {
			c.fail("%s: types %s and %s differ", what, bufs[0].Type(), b.Type())
		}
	}
}

// apart checks that a written buffer shares no byte with another one, unless it is that buffer.
func (c *check) apart(aName string, a Buffer, bName string, b Buffer, sameAllowed bool) {
	if a.Overlaps(b) && !(sameAllowed && a == b) {
		c.fail("%s overlaps %s", aName, bName)
	}
}
