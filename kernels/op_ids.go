package kernels

// Name is "embedding".
func (Embedding) Name() string { return "embedding" }

// Args lists Y, Table, IDs.
func (o Embedding) Args() []Arg {
	return given(Arg{"Y", o.Y, Write}, Arg{"Table", o.Table, Read}, Arg{"IDs", o.IDs, Read})
}

// Validate checks lengths, types and overlaps. Ids are checked when the Op runs.
func (o Embedding) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.V, o.D)
	c.dims(o.Rows, o.D)
	if c.err == nil {
		c.act("Table", o.Table, o.V*o.D, o.Table)
		c.act("Y", o.Y, o.Rows*o.D, o.Table)
		c.buf("IDs", o.IDs, o.Rows, I32)
	}
	return c.done(o.Args())
}

// Sample gives ids inside the table.
func (o Embedding) Sample(arg string) func(i int, r uint64) float64 {
	return sampleIDs(arg, "IDs", 0, o.V)
}

// Name is "embedding backward".
func (EmbeddingBackward) Name() string { return "embedding backward" }

// Args lists DTable, DY, IDs.
func (o EmbeddingBackward) Args() []Arg {
	return given(Arg{"DTable", o.DTable, ReadWrite}, Arg{"DY", o.DY, Read}, Arg{"IDs", o.IDs, Read})
}

// Validate checks lengths, types and overlaps. Ids are checked when the Op runs.
func (o EmbeddingBackward) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.V, o.D)
	c.dims(o.Rows, o.D)
	if c.err == nil {
		c.buf("DTable", o.DTable, o.V*o.D, F32)
		c.buf("DY", o.DY, o.Rows*o.D, F32, BF16)
		c.buf("IDs", o.IDs, o.Rows, I32)
	}
	return c.done(o.Args())
}

// Sample gives ids inside the table.
func (o EmbeddingBackward) Sample(arg string) func(i int, r uint64) float64 {
	return sampleIDs(arg, "IDs", 0, o.V)
}

// Name is "cross entropy".
func (CrossEntropy) Name() string { return "cross entropy" }

// Args lists Loss, Logits, Labels and, when given, DLogits.
func (o CrossEntropy) Args() []Arg {
	return given(Arg{"Loss", o.Loss, Write}, Arg{"DLogits", o.DLogits, Write}, Arg{"Logits", o.Logits, Read},
		Arg{"Labels", o.Labels, Read})
}

// Validate checks lengths, types and overlaps. Labels are checked when the Op runs.
func (o CrossEntropy) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, o.V)
	c.scalar("Scale", o.Scale)
	if c.err == nil {
		c.buf("Loss", o.Loss, o.Rows, F32)
		c.buf("Logits", o.Logits, o.Rows*o.V, F32)
		c.buf("Labels", o.Labels, o.Rows, I32)
		if !o.DLogits.IsZero() {
			c.buf("DLogits", o.DLogits, o.Rows*o.V, F32, BF16)
		}
	}
	return c.done(o.Args(), alias{"DLogits", "Logits"})
}

// Sample gives labels inside the vocabulary, and the label that does not count.
func (o CrossEntropy) Sample(arg string) func(i int, r uint64) float64 {
	return sampleIDs(arg, "Labels", -1, o.V)
}
