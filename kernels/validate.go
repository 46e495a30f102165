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

// dims checks that each dimension is in [1, 2^31) and that their product fits an int.
func (c *check) dims(dims ...int) {
	p := 1
	for _, d := range dims {
		if d < 1 || d > math.MaxInt32 || p > math.MaxInt/d {
			c.fail("dimensions %v: want each in [1, 2^31) and a product below 2^63", dims)
			return
		}
		p *= d
	}
}

// buf checks that b has n elements of one of the types.
func (c *check) buf(name string, b Buffer, n int, types ...DType) {
	if b.IsZero() {
		c.fail("%s is missing", name)
		return
	}
	if b.Len() != n {
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

// act checks that b has n elements of an activation type, that of like.
func (c *check) act(name string, b Buffer, n int, like Buffer) {
	c.buf(name, b, n, F32, BF16)
	if !b.IsZero() && b.Type() != like.Type() {
		c.fail("%s is %s and the activations are %s", name, b.Type(), like.Type())
	}
}

// scalar checks that a parameter of the Op is a number.
func (c *check) scalar(name string, v float32) {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		c.fail("%s is %v, want a finite number", name, v)
	}
}

// alias names two arguments that may be one and the same buffer.
type alias struct{ a, b string }

// done checks that no written argument shares a byte with another one, unless the two are
// the same buffer and named in allowed. It returns the first fault of the whole check.
func (c *check) done(args []Arg, allowed ...alias) error {
	for i, a := range args {
		for _, b := range args[i+1:] {
			if (a.Access|b.Access)&Write == 0 || !a.Buf.Overlaps(b.Buf) {
				continue
			}
			if a.Buf == b.Buf && mayAlias(allowed, a.Name, b.Name) {
				continue
			}
			c.fail("%s and %s overlap, and one of them is written", a.Name, b.Name)
		}
	}
	return c.err
}

func mayAlias(allowed []alias, a, b string) bool {
	for _, p := range allowed {
		if p == (alias{a, b}) || p == (alias{b, a}) {
			return true
		}
	}
	return false
}

// given leaves out the optional arguments that are not there.
func given(args ...Arg) []Arg {
	n := 0
	for _, a := range args {
		if !a.Buf.IsZero() {
			args[n] = a
			n++
		}
	}
	return args[:n]
}

// ValidateCopy checks a Stream's Copy: same element type and length, no overlap.
func ValidateCopy(dst, src Buffer) error {
	c := check{op: "copy"}
	if src.IsZero() || dst.Type() != src.Type() || dst.Len() != src.Len() {
		c.fail("%d elements of %s to %d of %s, want the same", src.Len(), src.Type(), dst.Len(), dst.Type())
	}
	return c.done([]Arg{{"dst", dst, Write}, {"src", src, Read}})
}
