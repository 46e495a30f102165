package kernels

// Name is "matmul".
func (MatMul) Name() string { return "matmul" }

// Args lists Out, A, B.
func (o MatMul) Args() []Arg {
	out := Write
	if o.Accumulate {
		out = ReadWrite
	}
	return given(Arg{"Out", o.Out, out}, Arg{"A", o.A, Read}, Arg{"B", o.B, Read})
}

// Validate checks lengths, types and overlaps.
func (o MatMul) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.M, o.N, o.K)
	if c.err == nil {
		c.buf("A", o.A, o.M*o.K, F32, BF16)
		c.act("B", o.B, o.K*o.N, o.A)
		c.buf("Out", o.Out, o.M*o.N, F32, o.A.Type())
		if o.Accumulate && o.Out.Type() != F32 {
			c.fail("Accumulate onto Out in %s, want f32", o.Out.Type())
		}
	}
	return c.done(o.Args())
}
