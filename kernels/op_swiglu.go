package kernels

// Name is "swiglu".
func (SwiGLU) Name() string { return "swiglu" }

// Args lists Y, GateUp.
func (o SwiGLU) Args() []Arg {
	return given(Arg{"Y", o.Y, Write}, Arg{"GateUp", o.GateUp, Read})
}

// Validate checks lengths, types and overlaps.
func (o SwiGLU) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, 2, o.F)
	if c.err == nil {
		c.act("GateUp", o.GateUp, o.Rows*2*o.F, o.GateUp)
		c.act("Y", o.Y, o.Rows*o.F, o.GateUp)
	}
	return c.done(o.Args())
}

// Name is "swiglu backward".
func (SwiGLUBackward) Name() string { return "swiglu backward" }

// Args lists DGateUp, DY, GateUp.
func (o SwiGLUBackward) Args() []Arg {
	return given(Arg{"DGateUp", o.DGateUp, Write}, Arg{"DY", o.DY, Read}, Arg{"GateUp", o.GateUp, Read})
}

// Validate checks lengths, types and overlaps.
func (o SwiGLUBackward) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, 2, o.F)
	if c.err == nil {
		c.act("GateUp", o.GateUp, o.Rows*2*o.F, o.GateUp)
		c.act("DGateUp", o.DGateUp, o.Rows*2*o.F, o.GateUp)
		c.act("DY", o.DY, o.Rows*o.F, o.GateUp)
	}
	return c.done(o.Args(), alias{"DGateUp", "GateUp"})
}
