package kernels

// Name is "rmsnorm".
func (RMSNorm) Name() string { return "rmsnorm" }

// Args lists Y, Rstd, X, W and, when given, Residual and Sum.
func (o RMSNorm) Args() []Arg {
	return given(Arg{"Y", o.Y, Write}, Arg{"Rstd", o.Rstd, Write}, Arg{"X", o.X, Read}, Arg{"W", o.W, Read},
		Arg{"Residual", o.Residual, Read}, Arg{"Sum", o.Sum, Write})
}

// Validate checks lengths, types and overlaps.
func (o RMSNorm) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, o.Cols)
	if c.err == nil {
		n := o.Rows * o.Cols
		c.act("X", o.X, n, o.X)
		c.act("Y", o.Y, n, o.X)
		c.act("W", o.W, o.Cols, o.X)
		c.buf("Rstd", o.Rstd, o.Rows, F32)
		switch {
		case o.Residual.IsZero() != o.Sum.IsZero():
			c.fail("Residual and Sum: one is given and the other is not, want both or neither")
		case !o.Sum.IsZero():
			c.act("Residual", o.Residual, n, o.X)
			c.act("Sum", o.Sum, n, o.X)
		}
		c.eps(o.Eps)
	}
	return c.done(o.Args(), alias{"Sum", "X"}, alias{"Sum", "Residual"})
}

func (c *check) eps(eps float32) {
	c.scalar("Eps", eps)
	if eps < 0 {
		c.fail("Eps is %v, want >= 0", eps)
	}
}

// Name is "rmsnorm backward".
func (RMSNormBackward) Name() string { return "rmsnorm backward" }

// Args lists DX, DW, DY, X, W, Rstd and, when given, DAdd.
func (o RMSNormBackward) Args() []Arg {
	return given(Arg{"DX", o.DX, Write}, Arg{"DW", o.DW, Write}, Arg{"DY", o.DY, Read}, Arg{"X", o.X, Read},
		Arg{"W", o.W, Read}, Arg{"Rstd", o.Rstd, Read}, Arg{"DAdd", o.DAdd, Read})
}

// Validate checks lengths, types and overlaps.
func (o RMSNormBackward) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, o.Cols)
	if c.err == nil {
		n := o.Rows * o.Cols
		c.act("X", o.X, n, o.X)
		c.act("DX", o.DX, n, o.X)
		c.act("DY", o.DY, n, o.X)
		c.act("W", o.W, o.Cols, o.X)
		c.buf("DW", o.DW, o.Cols, F32)
		c.buf("Rstd", o.Rstd, o.Rows, F32)
		if !o.DAdd.IsZero() {
			c.act("DAdd", o.DAdd, n, o.X)
		}
	}
	return c.done(o.Args(), alias{"DX", "DAdd"}, alias{"DX", "DY"})
}
