package kernels

import "math"

// Name is "add".
func (Add) Name() string { return "add" }

// Args lists Out, A, B.
func (o Add) Args() []Arg {
	return given(Arg{"Out", o.Out, Write}, Arg{"A", o.A, Read}, Arg{"B", o.B, Read})
}

// Validate checks lengths, types and overlaps.
func (o Add) Validate() error {
	c := check{op: o.Name()}
	c.act("A", o.A, o.A.Len(), o.A)
	c.act("B", o.B, o.A.Len(), o.A)
	c.act("Out", o.Out, o.A.Len(), o.A)
	return c.done(o.Args(), alias{"Out", "A"}, alias{"Out", "B"})
}

// Name is "convert".
func (Convert) Name() string { return "convert" }

// Args lists Dst, Src.
func (o Convert) Args() []Arg { return given(Arg{"Dst", o.Dst, Write}, Arg{"Src", o.Src, Read}) }

// Validate checks lengths, types and overlaps.
func (o Convert) Validate() error {
	c := check{op: o.Name()}
	types := []DType{F32, BF16, F16, Int8}
	if o.Src.Type() == Int8 || o.Dst.Type() == Int8 {
		types = []DType{F32, BF16, Int8}
	}
	c.buf("Src", o.Src, o.Src.Len(), types...)
	c.buf("Dst", o.Dst, o.Src.Len(), types...)
	if o.Src.Type() == Int8 && o.Dst.Type() == Int8 {
		c.fail("%s to %s: a copy does it", o.Src.Type(), o.Dst.Type())
	}
	return c.done(o.Args())
}

// Name is "fill".
func (Fill) Name() string { return "fill" }

// Args lists Dst.
func (o Fill) Args() []Arg { return given(Arg{"Dst", o.Dst, Write}) }

// Validate checks the type.
func (o Fill) Validate() error {
	c := check{op: o.Name()}
	c.buf("Dst", o.Dst, o.Dst.Len(), F32, BF16)
	return c.done(o.Args())
}

// Name is "accumulate".
func (Accumulate) Name() string { return "accumulate" }

// Args lists Acc, Src.
func (o Accumulate) Args() []Arg { return given(Arg{"Acc", o.Acc, ReadWrite}, Arg{"Src", o.Src, Read}) }

// Validate checks lengths, types and overlaps.
func (o Accumulate) Validate() error {
	c := check{op: o.Name()}
	c.buf("Src", o.Src, o.Src.Len(), F32, BF16, Int8)
	c.buf("Acc", o.Acc, o.Src.Len(), F32)
	return c.done(o.Args())
}

// SumBlock is the number of elements that one output of BlockSumSquares covers.
const SumBlock = 256

// Name is "block sum squares".
func (BlockSumSquares) Name() string { return "block sum squares" }

// Args lists Out, X.
func (o BlockSumSquares) Args() []Arg { return given(Arg{"Out", o.Out, Write}, Arg{"X", o.X, Read}) }

// Validate checks lengths, types and overlaps.
func (o BlockSumSquares) Validate() error {
	c := check{op: o.Name()}
	c.buf("X", o.X, o.X.Len(), F32)
	c.buf("Out", o.Out, (o.X.Len()+SumBlock-1)/SumBlock, F64)
	return c.done(o.Args())
}

// Name is "adamw".
func (AdamW) Name() string { return "adamw" }

// Args lists Param, M, V, Grad and, when given, Out.
func (o AdamW) Args() []Arg {
	return given(Arg{"Param", o.Param, ReadWrite}, Arg{"M", o.M, ReadWrite}, Arg{"V", o.V, ReadWrite},
		Arg{"Grad", o.Grad, Read}, Arg{"Out", o.Out, Write})
}

// Validate checks lengths, types, overlaps and that every scalar is a number.
func (o AdamW) Validate() error {
	c := check{op: o.Name()}
	n := o.Param.Len()
	c.buf("Param", o.Param, n, F32)
	c.buf("M", o.M, n, F32)
	c.buf("V", o.V, n, F32)
	c.buf("Grad", o.Grad, n, F32)
	if !o.Out.IsZero() {
		c.buf("Out", o.Out, n, F32, BF16)
	}
	s := o.Scalars
	for _, v := range []struct {
		name  string
		value float32
	}{
		{"GradScale", s.GradScale}, {"LearningRate", s.LearningRate}, {"Beta1", s.Beta1}, {"Beta2", s.Beta2},
		{"OneMinusBeta1", s.OneMinusBeta1}, {"OneMinusBeta2", s.OneMinusBeta2}, {"StepSize", s.StepSize},
		{"InvSqrtBias2", s.InvSqrtBias2}, {"Eps", s.Eps}, {"Decay", s.Decay},
	} {
		c.scalar(v.name, v.value)
	}
	return c.done(o.Args())
}

// Sample keeps the second moment positive.
func (o AdamW) Sample(arg string) func(i int, r uint64) float64 {
	if arg != "V" {
		return nil
	}
	return func(_ int, r uint64) float64 { return math.Abs(uniform(r)) }
}
