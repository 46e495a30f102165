package kernels

// Name is "rope".
func (RoPE) Name() string { return "rope" }

// Args lists X, Pos, Cos, Sin.
func (o RoPE) Args() []Arg {
	return given(Arg{"X", o.X, ReadWrite}, Arg{"Pos", o.Pos, Read}, Arg{"Cos", o.Cos, Read}, Arg{"Sin", o.Sin, Read})
}

// Validate checks lengths, types and overlaps. That each position is inside the tables is
// checked when the Op runs.
func (o RoPE) Validate() error {
	c := check{op: o.Name()}
	c.dims(o.Rows, o.Stride)
	c.dims(o.Heads, o.HeadDim)
	if c.err == nil {
		c.act("X", o.X, o.Rows*o.Stride, o.X)
		c.buf("Pos", o.Pos, o.Rows, I32)
		half := o.HeadDim / 2
		switch {
		case o.HeadDim%2 != 0:
			c.fail("HeadDim is %d, want an even number", o.HeadDim)
		case o.Heads*o.HeadDim > o.Stride:
			c.fail("%d heads of %d do not fit a row of %d", o.Heads, o.HeadDim, o.Stride)
		case o.Cos.Len() == 0 || o.Cos.Len()%half != 0:
			c.fail("Cos has %d elements, want a multiple of HeadDim/2 = %d", o.Cos.Len(), half)
		}
		c.buf("Cos", o.Cos, o.Cos.Len(), F32)
		c.buf("Sin", o.Sin, o.Cos.Len(), F32)
	}
	return c.done(o.Args())
}

// Positions is the number of positions in the tables.
func (o RoPE) Positions() int { return o.Cos.Len() / max(o.HeadDim/2, 1) }

// Sample gives positions inside the tables.
func (o RoPE) Sample(arg string) func(i int, r uint64) float64 {
	return sampleIDs(arg, "Pos", 0, max(o.Positions(), 1))
}

// attentionDims checks what all attention Ops share and returns a row's elements of QKV and of Out.
func (c *check) attentionDims(heads, kvHeads, headDim, window int, scale float32) (qkv, out int) {
	c.dims(heads, headDim)
	c.dims(kvHeads, headDim)
	c.scalar("Scale", scale)
	if window < 0 {
		c.fail("Window is %d, want >= 0, 0 for none", window)
	}
	if c.err != nil {
		return 0, 0
	}
	if heads%kvHeads != 0 {
		c.fail("%d query heads do not divide into %d key and value heads", heads, kvHeads)
	}
	return (heads + 2*kvHeads) * headDim, heads * headDim
}

// Name is "attention".
func (Attention) Name() string { return "attention" }

// Args lists Out, LSE, QKV, DocStart.
func (o Attention) Args() []Arg {
	return given(Arg{"Out", o.Out, Write}, Arg{"LSE", o.LSE, Write}, Arg{"QKV", o.QKV, Read},
		Arg{"DocStart", o.DocStart, Read})
}

// Validate checks lengths, types and overlaps. That no document starts after its token
// is checked when the Op runs.
func (o Attention) Validate() error {
	c := check{op: o.Name()}
	qkv, out := c.attentionDims(o.Heads, o.KVHeads, o.HeadDim, o.Window, o.Scale)
	c.dims(o.B, o.T, max(qkv, 1))
	if c.err == nil {
		rows := o.B * o.T
		c.act("QKV", o.QKV, rows*qkv, o.QKV)
		c.act("Out", o.Out, rows*out, o.QKV)
		c.buf("LSE", o.LSE, rows*o.Heads, F32)
		c.buf("DocStart", o.DocStart, rows, I32)
	}
	return c.done(o.Args())
}

// Sample gives two documents per sequence.
func (o Attention) Sample(arg string) func(i int, r uint64) float64 { return sampleDocStart(arg, o.T) }

// Name is "attention backward".
func (AttentionBackward) Name() string { return "attention backward" }

// Args lists DQKV, Delta, DOut, Out, LSE, QKV, DocStart.
func (o AttentionBackward) Args() []Arg {
	return given(Arg{"DQKV", o.DQKV, Write}, Arg{"Delta", o.Delta, Write}, Arg{"DOut", o.DOut, Read},
		Arg{"Out", o.Out, Read}, Arg{"LSE", o.LSE, Read}, Arg{"QKV", o.QKV, Read}, Arg{"DocStart", o.DocStart, Read})
}

// Validate checks lengths, types and overlaps.
func (o AttentionBackward) Validate() error {
	c := check{op: o.Name()}
	qkv, out := c.attentionDims(o.Heads, o.KVHeads, o.HeadDim, o.Window, o.Scale)
	c.dims(o.B, o.T, max(qkv, 1))
	if c.err == nil {
		rows := o.B * o.T
		c.act("QKV", o.QKV, rows*qkv, o.QKV)
		c.act("DQKV", o.DQKV, rows*qkv, o.QKV)
		c.act("Out", o.Out, rows*out, o.QKV)
		c.act("DOut", o.DOut, rows*out, o.QKV)
		c.buf("LSE", o.LSE, rows*o.Heads, F32)
		c.buf("Delta", o.Delta, rows*o.Heads, F32)
		c.buf("DocStart", o.DocStart, rows, I32)
	}
	return c.done(o.Args())
}

// Sample gives two documents per sequence and a log-sum-exp that no score exceeds by much.
func (o AttentionBackward) Sample(arg string) func(i int, r uint64) float64 {
	if arg == "LSE" {
		return func(_ int, r uint64) float64 { return 4 + uniform(r) }
	}
	return sampleDocStart(arg, o.T)
}

// sampleDocStart lets the second document of a sequence start at two fifths of it.
func sampleDocStart(arg string, t int) func(i int, r uint64) float64 {
	if arg != "DocStart" {
		return nil
	}
	second := t * 2 / 5
	return func(i int, _ uint64) float64 {
		if i%t >= second {
			return float64(second)
		}
		return 0
	}
}

// Name is "cached attention".
func (CachedAttention) Name() string { return "cached attention" }

// Args lists Out, QKV, Keys, Values.
func (o CachedAttention) Args() []Arg {
	return given(Arg{"Out", o.Out, Write}, Arg{"QKV", o.QKV, Read}, Arg{"Keys", o.Keys, ReadWrite},
		Arg{"Values", o.Values, ReadWrite})
}

// Validate checks lengths, types, overlaps and that the new tokens fit the cache.
func (o CachedAttention) Validate() error {
	c := check{op: o.Name()}
	qkv, out := c.attentionDims(o.Heads, o.KVHeads, o.HeadDim, o.Window, o.Scale)
	c.dims(o.N, max(qkv, 1))
	if c.err == nil {
		row := o.KVHeads * o.HeadDim
		c.act("QKV", o.QKV, o.N*qkv, o.QKV)
		c.act("Out", o.Out, o.N*out, o.QKV)
		c.act("Keys", o.Keys, o.Keys.Len(), o.QKV)
		c.act("Values", o.Values, o.Keys.Len(), o.QKV)
		switch {
		case o.Keys.Len()%row != 0:
			c.fail("Keys has %d elements, want a multiple of %d", o.Keys.Len(), row)
		case o.Past < 0 || o.Past > o.Keys.Len()/row-o.N:
			c.fail("%d new tokens after %d do not fit a cache of %d", o.N, o.Past, o.Keys.Len()/row)
		}
	}
	return c.done(o.Args())
}
